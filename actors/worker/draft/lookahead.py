"""Which drafts a step verifies: pure decisions over what is likely and what a step costs.

A draft's node is worth verifying when it brings more tokens for its milliseconds than the step does without it:

    chance > MARGIN * expected tokens / step ms * ms of one more token

so nodes are taken in order of their chance until one is not worth it: each that was makes the next one's bar higher.
With many rows in a step its fixed part is shared already, and only near certainties pass; a row alone gains from a
coin's toss. What the model of a step's cost says of many tokens it learned from them, drafts included.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from actors.worker.step_cost import StepCost, Work

MARGIN = 1.15
"""How much more than its price a node must bring: both are estimates."""
OVERHEAD_MS = 0.15
"""What a step with drafts takes beyond its tokens: it is assembled anew, and its draws are compared."""
MOST_NODES = 64
"""Most draft tokens of a step, all rows together."""
LENGTHEN = 0.25
"""By what part of it drafts may lengthen a step of which some row has none: others' drafts are no use to it."""

LEAST_LOOKAHEAD, FIRST_LOOKAHEAD, MOST_LOOKAHEAD = 2, 6, 8
PATIENCE = 4
"""Rows looked at in vain before a pause: a look costs little beside what leaving the engine's shortest path costs."""
PAUSE_PER_ROW, MOST_PAUSE = 4, 16
"""Steps without a look at the rows: so many for each, and most in all. Shorter ones would not be on that path."""
RAISE_ABOVE, LOWER_BELOW = 0.9, 0.5
"""Acceptance rates of a row beyond which its lookahead changes."""


class Price(NamedTuple):
    """What a step costs without drafts, and what draft tokens add."""

    expected: float
    """Tokens that it brings."""
    step_ms: float
    node_ms: float
    """A draft token."""

    @property
    def least_chance(self) -> float:
        """Of the first node that is worth it, were a draft no trouble."""
        return MARGIN * self.expected / self.step_ms * self.node_ms


def price(cost: StepCost, beside: Work) -> Price:
    """Of draft tokens beside a step's other work (at least one decoding row)."""
    context = beside.attended / max(beside.rows + beside.prefill, 1)
    step_ms = max(cost.step_ms(beside), 1e-6)
    return Price(float(beside.rows), step_ms, cost.row + cost.attended * context)


def chosen(chances: Sequence[Sequence[float]], price: Price, rows: int, most_nodes: int = MOST_NODES) -> list[int]:
    """How many of each row's first nodes the step verifies; chances[r] never rise, `rows` decode in all.

    Never more than `most_nodes` together. Drafts lengthen the step of a row that has none by LENGTHEN of it at most.
    """
    counts, drafted = _within(chances, price, most_nodes, math.inf)
    if 0 < drafted < rows:
        counts, _ = _within(chances, price, most_nodes, LENGTHEN * price.step_ms)
    return counts


def _within(chances: Sequence[Sequence[float]], price: Price, most_nodes: int, most_ms: float) -> tuple[list[int], int]:
    """The nodes worth it within `most_ms`, and how many rows have any."""
    counts = [0] * len(chances)
    if price.node_ms > 0:
        most_nodes = min(most_nodes, int(min(most_ms / price.node_ms, most_nodes)))
    best = sorted(((-chance, row) for row, of_row in enumerate(chances) for chance in of_row))[:most_nodes]
    expected, step_ms = price.expected, price.step_ms
    for negative, row in best:
        if -negative * step_ms <= MARGIN * expected * price.node_ms:
            break
        counts[row] += 1
        expected -= negative
        step_ms += price.node_ms
    # The tokens gained, at the step's own pace, against the time that they take.
    won_ms = (expected / price.expected - 1) * price.step_ms - (step_ms - price.step_ms)
    if won_ms <= OVERHEAD_MS:
        return [0] * len(chances), 0
    return counts, sum(count > 0 for count in counts)


def worthwhile_depth(rates: Sequence[float], price: Price, proposal_ms: Callable[[int], float]) -> int:
    """How many tokens ahead a proposer that costs something should look for rows of these acceptance rates; 0: not.

    `proposal_ms` is what it takes to look so far ahead for all of them.
    """
    best, best_pace = 0, MARGIN * price.expected / price.step_ms
    expected = price.expected
    for depth in range(1, MOST_LOOKAHEAD + 1):
        expected += sum(rate**depth for rate in rates)
        ms = price.step_ms + OVERHEAD_MS + depth * len(rates) * price.node_ms + proposal_ms(depth)
        if expected / ms > best_pace:
            best, best_pace = depth, expected / ms
    return best


def paused(fruitless: int, rows: int) -> int:
    """Steps to run without looking for drafts after so many looks in a row that found none, the newest included.

    A row alone gains most and is looked at often; looking at many costs more and finds little.
    """
    return 0 if fruitless * rows < PATIENCE else min(PAUSE_PER_ROW * rows, MOST_PAUSE)


def adapted(lookahead: int, rate: float) -> int:
    """A row's lookahead after another draft, given its acceptance rate of late."""
    if rate > RAISE_ABOVE:
        return min(lookahead + 2, MOST_LOOKAHEAD)
    if rate < LOWER_BELOW:
        return max(lookahead - 1, LEAST_LOOKAHEAD)
    return lookahead
