"""What is done when KV memory is short, in this order: evict, quantize, spill, reject.

- Evict: cached pages that no sequence uses go whenever pages are wanted; they are as good as free. (Those of `auto`
  prompts that are not on disk go to 2 bits first, once the budget is taken up: a poor copy is better than none.)
- Quantize: while what live sequences use is above HIGH of the budget, and until it is at LOW, the older part of those
  whose format is auto goes to 8 bits, and when all have done that, to 4.
- Spill: a row that must give way is kept on disk where reading it back is cheaper than computing it again.
- Reject: a request is refused, to come back later, where those that wait already want more memory than is reasonable
  to wait for.
"""

from actors.scheduler.budget import HIGH, LOW

QUANTIZE = ("q8", "q4")
"""Tiers to which the older part of `auto` sequences goes, one after the other."""


class Pressure:
    """Whether memory is short, and how far to go."""

    def __init__(self, formats: tuple[str, ...]) -> None:
        self.short = False
        self._steps = tuple(format for format in QUANTIZE if format in formats)
        self._step = 0

    @property
    def tier(self) -> str | None:
        """The tier that `auto` sequences go to now; None where memory is not short or there is no such tier."""
        return self._steps[self._step] if self.short and self._steps else None

    def update(self, live_bytes: int, capacity: int, exhausted: bool) -> None:
        """Look again. `exhausted`: nothing was left to be moved to `tier`."""
        self.short = live_bytes > (LOW if self.short else HIGH) * capacity
        if not self.short:
            self._step = 0
        elif exhausted and self._step + 1 < len(self._steps):
            self._step += 1
