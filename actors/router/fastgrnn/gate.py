"""The promotion gate: whether a candidate may serve instead of what serves now, from predictions on the same rows."""

from typing import NamedTuple

from numpy.typing import NDArray

from actors.router.fastgrnn.metric import Interval, compare


class Verdict(NamedTuple):
    """Whether the candidate serves from now on, and why. Leads are of the gap recovered, mean over the shares."""

    passed: bool
    over_current: Interval
    over_chance: Interval
    reasons: list[str]


def gate(candidate: NDArray, current: NDArray, small: NDArray, large: NDArray, margin: float = 0.0) -> Verdict:
    """Compare on rows that neither was trained on: probabilities [n] that the small model is enough, and outcomes [n].

    It passes where the whole 95 % interval (paired bootstrap of the rows) of its lead over the current router is above
    `margin`, and that of its lead over chance above 0. A margin below 0 lets one pass that is at worst so much worse.
    """
    lead, chance = compare(candidate, current, small, large), compare(candidate, None, small, large)
    better, useful = lead.low > margin, chance.low > 0
    reasons = [
        f"on {len(small)} rows held out it recovers {lead} more of the gap than what serves now: "
        + (f"all above the margin of {margin:g}" if better else f"not all above the margin of {margin:g}"),
        f"and {chance} more than chance: " + ("all above 0" if useful else "not all above 0"),
    ]
    return Verdict(better and useful, lead, chance, reasons)
