"""Whether drafts pay, by the clock: what steps with and without them brought at a number of rows.

Prices (actors.worker.draft.lookahead) are of a line through all steps, and a machine's cost is not one: a few rows are
nearly free while weights are read, many are not. So the line proposes, and the clock has the last word: where steps
with drafts did not bring more tokens a millisecond than steps without, drafts rest for a while, longer each time.
"""

import math
from dataclasses import dataclass, field

TRIAL = 12
"""Steps of a kind before anything is made of them."""
LEAST_GAIN = 1.02
LEAST_REST, MOST_REST = 48, 768
"""Steps without drafts before they are tried again."""
KEPT = 96
"""Steps of a kind after which those before count half."""
OUTLIER = 3.0
"""A step that took so many times the mean was interrupted: it counts as that."""


@dataclass
class _Pace:
    """Tokens and milliseconds of steps of one kind."""

    steps: float = 0.0
    tokens: float = 0.0
    ms: float = 0.0

    def add(self, tokens: int, ms: float, steps: int) -> None:
        if self.steps >= TRIAL:
            ms = min(ms, OUTLIER * self.ms / self.steps)
        self.steps += steps
        self.tokens += tokens * steps
        self.ms += ms * steps
        if self.steps >= KEPT:
            self.halve()

    def halve(self) -> None:
        self.steps /= 2
        self.tokens /= 2
        self.ms /= 2

    @property
    def known(self) -> bool:
        return self.steps >= TRIAL and self.ms > 0

    @property
    def rate(self) -> float:
        return self.tokens / self.ms


@dataclass
class _Rows:
    """What is known of one number of rows."""

    plain: _Pace = field(default_factory=_Pace)
    drafted: _Pace = field(default_factory=_Pace)
    left: int = 0
    """Steps of the rest that are left."""
    rest: int = LEAST_REST
    """How long the next one is."""


class Gains:
    """The measurements of one engine, by about how many rows decode: a batch whose rows end one by one is not tried
    anew at each number."""

    def __init__(self) -> None:
        self._of: dict[int, _Rows] = {}

    def rest(self, rows: int) -> int:
        """Steps of `rows` decoding rows before drafts may be tried again; 0: now."""
        of = self._of.get(_about(rows))
        return of.left if of is not None else 0

    def took(self, rows: int, tokens: int, ms: float, drafted: bool, steps: int = 1) -> None:
        """Steps of `rows` decoding rows and nothing else brought `tokens` each in `ms`, the gap before it included."""
        of = self._of.setdefault(_about(rows), _Rows())
        if not drafted:
            of.plain.add(tokens, ms, steps)
            of.left = max(of.left - steps, 0)
            return
        of.drafted.add(tokens, ms, steps)
        if not of.drafted.known:
            return
        if not of.plain.known:
            of.left = TRIAL  # there is nothing yet to compare with
        elif of.drafted.rate < LEAST_GAIN * of.plain.rate:
            of.left, of.rest = of.rest, min(2 * of.rest, MOST_REST)
            of.drafted = _Pace()
        else:
            of.rest = LEAST_REST


def _about(rows: int) -> int:
    """The same for numbers of rows that differ by less than a quarter; to five rows each has its own."""
    return round(3 * math.log2(rows))
