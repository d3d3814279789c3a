"""The rows of the running batch as columns: one slot a row, NumPy arrays over slots.

Of one row, with KV positions from left to right:

    0          cached                 computed      known                  max_length
    |-- found --|-- computed here ------|-- pending --|                          |
    |-- in the KV: computed tokens -----|             |
    |-- prompt ... prompt_tokens --|-- output --------|

    computed  tokens in the KV; never more than `limit` (the lease) nor than `known`
    known     prompt and output tokens; tokens[known - 1] is the newest. A drawn token is known at once and computed a
              step later, so a decoding row has known == computed + 1, and a row that ended by its length never has its
              last token in the KV.
    pending   min(known, limit) - computed: what a step may compute. Logits are wanted exactly when a step brings
              computed to known; the token then drawn stands at position known.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.worker.verify import MOST_DRAFTED
from kernels.decoder import Float32, Int32
from protos.gen import worker_pb2

MAX_STOP_IDS = 64
"""Most stop ids of a row: the width of their column."""

NO_IDS = np.zeros(0, np.int32)
NO_VALUES = np.zeros(0, np.float32)


class Bias(NamedTuple):
    """Sparse additions to a row's logits: distinct ids [B] and values [B]."""

    ids: Int32
    values: Float32


NO_BIAS = Bias(NO_IDS, NO_VALUES)


class Seen:
    """Distinct tokens of a row and how often each is in its output, kept up token by token in O(1).

    Only rows with a penalty keep one.
    """

    def __init__(self, tokens: Int32, prompt_tokens: int, capacity: int) -> None:
        """`capacity` is the most distinct ids there can be."""
        distinct = np.unique(tokens)
        self._ids = np.empty(capacity, np.int32)
        self._output_counts = np.zeros(capacity, np.int32)
        self._size = len(distinct)
        self._ids[: self._size] = distinct
        np.add.at(self._output_counts, np.searchsorted(distinct, tokens[prompt_tokens:]), 1)
        self._place = {int(token): place for place, token in enumerate(distinct)}

    def add(self, token: int) -> None:
        """Count one more output token."""
        place = self._place.get(token)
        if place is None:
            place = self._place[token] = self._size
            self._ids[place] = token
            self._size += 1
        self._output_counts[place] += 1

    def after(self, tokens: list[int]) -> tuple[Int32, Int32]:
        """ids and output_counts as they would be after `tokens` more of output; both new."""
        more = [token for token in dict.fromkeys(tokens) if token not in self._place]
        ids = np.concatenate([self.ids, np.array(more, np.int32)])
        counts = np.concatenate([self.output_counts, np.zeros(len(more), np.int32)])
        for token in tokens:
            counts[self._place[token] if token in self._place else self._size + more.index(token)] += 1
        return ids, counts

    @property
    def ids(self) -> Int32:
        """Distinct ids, [S]."""
        return self._ids[: self._size]

    @property
    def output_counts(self) -> Int32:
        """Parallel to ids: occurrences in the output; 0 where the id is only in the prompt."""
        return self._output_counts[: self._size]


class Rows:
    """Every row's state, one slot each. The engine thread owns it; what plans ask for has been checked before."""

    def __init__(self, max_rows: int, context_length: int, page_size: int, vocab: int) -> None:
        """`context_length` bounds a row's tokens, `vocab` its token ids."""
        self.page_size = page_size
        self.vocab = vocab
        self.slot_of: dict[int, int] = {}
        self._free = list(range(max_rows - 1, -1, -1))
        self.row = np.zeros(max_rows, np.int64)
        self.tokens = np.zeros((max_rows, context_length), np.int32)
        self.page_table = np.full((max_rows, -(-context_length // page_size)), -1, np.int32)
        self.page_count = np.zeros(max_rows, np.int32)
        self.known = np.zeros(max_rows, np.int32)
        self.computed = np.zeros(max_rows, np.int32)
        self.limit = np.zeros(max_rows, np.int32)
        self.prompt_tokens = np.zeros(max_rows, np.int32)
        self.max_length = np.zeros(max_rows, np.int32)
        self.min_tokens = np.zeros(max_rows, np.int64)
        self.stop_ids = np.full((max_rows, MAX_STOP_IDS), -1, np.int32)
        self.ended = np.zeros(max_rows, bool)
        self.temperature = np.zeros(max_rows, np.float32)
        self.top_k = np.zeros(max_rows, np.int32)
        self.top_p = np.ones(max_rows, np.float32)
        self.min_p = np.zeros(max_rows, np.float32)
        self.repetition = np.ones(max_rows, np.float32)
        self.presence = np.zeros(max_rows, np.float32)
        self.frequency = np.zeros(max_rows, np.float32)
        self.seed = np.zeros(max_rows, np.uint64)
        self.top_logprobs = np.full(max_rows, -1, np.int32)
        """How many alternatives are told of each token drawn; -1: not even its own log-probability."""
        self.score_from = np.zeros(max_rows, np.int32)
        """The prompt token whose log-probability is told next (actors.worker.scoring); 0: none is, or all were."""
        self.penalised = np.zeros(max_rows, bool)
        self.seen: list[Seen | None] = [None] * max_rows
        self.biased = np.zeros(max_rows, bool)
        """Whether a bias may apply at all: logit_bias or min_tokens is set."""
        self.bias: list[Bias] = [NO_BIAS] * max_rows
        self.constrained = np.zeros(max_rows, bool)
        """Whether the output must be of a grammar (actors.worker.grammar)."""
        self.waiting = np.zeros(max_rows, bool)
        """Whether the grammar is still being compiled: the row may not draw yet."""
        self.masks = np.zeros((max_rows + MOST_DRAFTED, -(-vocab // 32)), np.uint32)
        """Of the step that runs: row i is of its i-th draw that has a mask (kernels.sampling.SampleBatch)."""
        self.bias_before_min: list[Bias] = [NO_BIAS] * max_rows
        """The row's bias with its stop ids banned, for the first min_tokens of its output."""

    def start(self, start: worker_pb2.RowStart) -> int:
        """Take a slot for a row; returns the slot. Its pages and limit come with `extend`."""
        slot = self._free.pop()
        self.slot_of[start.row] = slot
        tokens = np.array(start.token_ids, np.int32)
        sampling = start.sampling
        self.row[slot] = start.row
        self.tokens[slot, : len(tokens)] = tokens
        self.known[slot] = len(tokens)
        self.computed[slot] = start.cached_tokens
        self.limit[slot] = 0
        self.prompt_tokens[slot] = start.prompt_tokens
        self.max_length[slot] = start.max_length
        self.min_tokens[slot] = start.min_tokens
        self.stop_ids[slot] = -1
        self.stop_ids[slot, : len(start.stop_ids)] = start.stop_ids
        self.ended[slot] = False
        self.temperature[slot] = sampling.temperature
        self.top_k[slot] = min(sampling.top_k, self.vocab)
        self.top_p[slot] = sampling.top_p
        self.min_p[slot] = sampling.min_p
        self.repetition[slot] = sampling.repetition_penalty
        self.presence[slot] = sampling.presence_penalty
        self.frequency[slot] = sampling.frequency_penalty
        self.seed[slot] = sampling.seed
        self.score_from[slot] = start.score_from
        self.top_logprobs[slot] = min(start.logprobs, self.vocab) if start.HasField("logprobs") else -1
        penalised = (
            sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        )
        self.penalised[slot] = penalised
        self.seen[slot] = Seen(tokens, start.prompt_tokens, min(self.vocab, start.max_length)) if penalised else None
        self.bias[slot], self.bias_before_min[slot] = _biases(start)
        self.biased[slot] = bool(len(self.bias_before_min[slot].ids))
        return slot

    def drop(self, row: int) -> None:
        """Forget a row: nothing reads or writes its pages from here on."""
        slot = self.slot_of.pop(row)
        self.page_table[slot, : self.page_count[slot]] = -1
        self.page_count[slot] = 0
        self.seen[slot] = None
        self.bias[slot] = self.bias_before_min[slot] = NO_BIAS
        self._free.append(slot)

    def extend(self, slot: int, pages: list[int]) -> None:
        """Append pages to a row's table."""
        count = self.page_count[slot]
        self.page_table[slot, count : count + len(pages)] = pages
        self.page_count[slot] = count + len(pages)

    def replace_pages(self, old: Int32, new: Int32) -> None:
        """Let every table list new[i] wherever it lists old[i], both [N]; old ids are distinct."""
        used = self.page_table[:, : self.page_count.max()]
        of = np.arange(max(int(used.max(initial=-1)), int(old.max())) + 2, dtype=np.int32)
        of[-1] = -1  # entries past a row's pages
        of[old] = new
        used[:] = of[used]

    def advance(self, slots: Int32, counts: Int32, new: Int32) -> None:
        """The step is done: the KV of each slot has grown by `counts` tokens, and `new` [R, W] follow those known.

        A slot's new tokens are on the left; the rest of its row is -1.
        """
        self.computed[slots] += counts
        for drawn in new.T:
            got = drawn >= 0
            rows, tokens = slots[got], drawn[got]
            self.tokens[rows, self.known[rows]] = tokens
            self.known[rows] += 1
            penalised = self.penalised[rows]
            if penalised.any():
                for index in np.flatnonzero(penalised):
                    seen = self.seen[rows[index]]
                    if seen is not None:
                        seen.add(int(tokens[index]))

    def ends(self, slots: Int32, new: Int32) -> NDArray[np.int8]:
        """RowEnd of each slot after `advance`: a stop id wins over the length."""
        stops = self.stop_ids[slots]
        stopped = np.zeros(len(slots), bool)
        for drawn in new.T:
            stopped |= (stops == drawn[:, None]).any(axis=1) & (drawn >= 0)
        full = self.known[slots] >= self.max_length[slots]
        ends = np.where(stopped, worker_pb2.ROW_STOP, np.where(full, worker_pb2.ROW_LENGTH, worker_pb2.ROW_RUNNING))
        return ends.astype(np.int8)


def _biases(start: worker_pb2.RowStart) -> tuple[Bias, Bias]:
    """A row's bias, and the same with its stop ids banned (-inf) where min_tokens asks for that; ids stay distinct."""
    values = dict(start.sampling.logit_bias)
    plain = _bias(values)
    if not start.min_tokens or not start.stop_ids:
        return plain, plain
    return plain, _bias(values | dict.fromkeys(start.stop_ids, -np.inf))


def _bias(values: dict[int, float]) -> Bias:
    ids = sorted(values)
    return Bias(np.array(ids, np.int32), np.array([values[i] for i in ids], np.float32)) if ids else NO_BIAS
