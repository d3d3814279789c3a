"""A stretch of steps in which nothing but tokens changes: every row decodes, and no plan, end or limit is in sight.

Between two steps everything waits for Python, whose code and data the forward's weights have just thrown out of the
caches: each array operation costs 5 to 10 us there, five times what it costs in a loop of its own. So what such steps
share is gathered once, and Rows is brought up to date when the stretch is over.
"""

from typing import Self

import numpy as np

from actors.worker.batch import Step
from actors.worker.rows import Rows
from actors.worker.sampler import sample_batch, wanted_logprobs
from actors.worker.verify import Draws
from kernels.decoder import Batch, Int32


class Steady:
    """Decoding steps of `slots`, at most `left` of them. Until `settle`, Rows lags behind by the steps taken."""

    def __init__(self, rows: Rows, slots: Int32, left: int) -> None:
        self._rows = rows
        self._slots = slots
        self.left = left
        """Steps until the first row reaches its limit or its length."""
        self.row = rows.row[slots]
        count = len(slots)
        self.running = np.zeros(len(slots), np.int8)
        """RowEnd of every row."""
        self.seconds = 0.0
        """What its steps have taken, the gaps before them included; the engine adds it up."""
        self._lengths = rows.computed[slots]
        self._tokens = rows.tokens[slots, self._lengths]
        self._drawn: list[Int32] = []
        self._stops = frozenset(rows.stop_ids[slots].ravel().tolist()) - {-1}
        """Of all rows together: a token that ends another row only ends the stretch too early."""
        self._sampling = sample_batch(rows, slots)
        self._position = self._sampling.position
        self._tops = rows.top_logprobs[slots] if self._sampling.logprobs is not None else None
        self._ones = np.ones(count, np.int32)
        self._all = np.ones(count, bool)
        self._row_starts = np.arange(count + 1, dtype=np.int32)
        self._logits_at = self._row_starts[:-1]
        self._draws = Draws(self._logits_at, self._logits_at, np.zeros(count, np.int32))
        pages = -(-(int(self._lengths.max()) + left) // rows.page_size)
        self._page_table = rows.page_table[slots, :pages]

    @classmethod
    def of(cls, rows: Rows, slots: Int32, most: int | None = None) -> Self | None:
        """The stretch that begins with the next step, of `most` steps; None where rows prefill, or their sampling
        depends on tokens."""
        computed, known = rows.computed[slots], rows.known[slots]
        if not len(slots) or rows.penalised[slots].any() or rows.biased[slots].any() or (known - computed != 1).any():
            return None
        if rows.waiting[slots].any():
            return None
        left = int(np.minimum(rows.limit[slots] - computed, rows.max_length[slots] - known).min())
        left = left if most is None else min(left, most)
        return cls(rows, slots, left) if left > 0 else None

    def step(self) -> Step:
        """The next step, sampling included."""
        batch = Batch(self._tokens, self._row_starts, self._lengths, self._page_table, self._logits_at)
        sampling = self._sampling
        if self._tops is not None:  # records hold the answers of the steps before
            sampling = sampling._replace(logprobs=wanted_logprobs(self._tops))
        return Step(self._slots, self._ones, self._all, self._draws, batch, sampling)

    def take(self, drawn: Int32) -> Int32:
        """The step drew these tokens; returns the rows' tokens in the KV now."""
        self._drawn.append(drawn)
        self._tokens = drawn
        self._lengths = self._lengths + 1  # not in place: records hold the one before
        np.add(self._position, 1, out=self._position)
        self.left = 0 if not self._stops.isdisjoint(drawn.tolist()) else self.left - 1
        return self._lengths

    def settle(self) -> int:
        """Bring Rows up to date; how many steps were taken."""
        rows, slots, taken = self._rows, self._slots, len(self._drawn)
        if taken:
            at = rows.known[slots][:, None] + np.arange(taken, dtype=np.int32)
            rows.tokens[slots[:, None], at] = np.stack(self._drawn, axis=1)
            rows.known[slots] += taken
            rows.computed[slots] += taken
            self._drawn.clear()
        return taken
