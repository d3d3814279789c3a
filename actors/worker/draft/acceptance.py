"""How likely a draft's token is accepted: learned for each source from every token that was tried.

A proposer says how sure it is as a level from 0 to 16: how many of the row's tokens match (text), or how probable a
model finds its token. Each source has a log-odds per level, shared by all rows and moving slowly, and each row a
log-odds of its own per source on top, moving fast: what a row does now may differ from what rows usually do, and from
what it did before. (Logistic regression by stochastic gradient; constant rates forget.)
"""

from math import exp, log

LEVELS = 17
RATE = 0.03
"""Of what all rows share."""
ROW_RATE = 0.5
"""Of a row's own part."""
MOST_SHIFT = 6.0
"""Bound of a row's own part, so that it finds back in a dozen tries or two."""
LEAST_CHANCE, MOST_CHANCE = 0.01, 0.99

_PRIORS: dict[str, tuple[tuple[int, float], ...]] = {
    "grammar": ((0, 0.98), (16, 0.98)),
    "reference": ((0, 0.7), (5, 0.85), (16, 0.95)),
    "prompt": ((2, 0.5), (3, 0.65), (5, 0.78), (8, 0.86), (16, 0.96)),
    "traffic": ((3, 0.35), (5, 0.45), (8, 0.68), (16, 0.95)),
    "model": ((0, 0.05), (16, 0.95)),
    "head": ((0, 0.05), (16, 0.95)),
}
"""Chances before anything is known, by level; between these levels they are interpolated. Those of text were measured
over 20,000 greedy and sampled tokens of chat and of quoting tasks (SmolLM2-135M)."""
SOURCES = tuple(_PRIORS)


def _logit(chance: float) -> float:
    return log(chance / (1 - chance))


def _prior(source: str) -> list[float]:
    points, odds = _PRIORS[source], []
    for level in range(LEVELS):
        low = max((point for point in points if point[0] <= level), default=points[0])
        high = min((point for point in points if point[0] >= level), default=points[-1])
        part = (level - low[0]) / (high[0] - low[0]) if high[0] != low[0] else 0.0
        odds.append(_logit(low[1] + part * (high[1] - low[1])))
    return odds


class Acceptance:
    """The estimates that all rows share, and how one row's own (`shifts`, by source) go with them."""

    def __init__(self) -> None:
        self._odds = {source: _prior(source) for source in SOURCES}

    def chance(self, source: str, level: int, shifts: dict[str, float]) -> float:
        """That a token is accepted whose parent is."""
        chance = 1 / (1 + exp(-self._odds[source][level] - shifts.get(source, 0.0)))
        return LEAST_CHANCE if chance < LEAST_CHANCE else MOST_CHANCE if chance > MOST_CHANCE else chance

    def learn(self, source: str, level: int, shifts: dict[str, float], missed: float) -> None:
        """A token was tried whose parent was accepted: `missed` is 1 (taken) or 0 less its chance."""
        self._odds[source][level] += RATE * missed
        shift = shifts.get(source, 0.0) + ROW_RATE * missed
        shifts[source] = -MOST_SHIFT if shift < -MOST_SHIFT else MOST_SHIFT if shift > MOST_SHIFT else shift
