"""How many prompt tokens a step takes, and whose: pure decisions over what a step costs.

How many. While rows stream, a step may last as long as the target for inter-token latency, since it is one token of
each. Where the target is out of reach (a large model, many rows), prompts still get a third of the step: streams run at
two thirds of their speed at worst, and prompts always go on. While nothing streams, a step is long enough that
reading the weights is a small part of it, and no longer: a cancel or an arriving prompt waits for its end.

Whose. The first prompt in order of precedence gets half of that time, the rest goes to whoever has fewest tokens left.
So a short prompt does not wait for a 6,000-token one to end, while the one that came first is delayed to twice its time
at most, whatever arrives after it; each prompt becomes the first of its level, so none starves. Of equal prompts the
one furthest on has fewest left: they end one after the other, as first come first served, not all at the end.
"""

from collections.abc import Sequence
from typing import NamedTuple

from actors.worker.step_cost import StepCost, Work

PROMPT_SHARE = 1 / 3
"""Part of a step that prompts get at least, whatever the target: a step then lasts 1.5 times what its streams alone
take. That leaves a factor of two to the machine's own tail before p99 reaches three times the quiet median."""
IDLE_STEP_MS = 100.0
"""How long a step may last while nothing streams."""
FIXED_SHARE = 0.1
"""Or as long as makes a step's fixed cost this share of it, where that is longer."""
FIRST_CHUNK = 64
"""Prompt tokens of a step while no step was measured yet."""
MOST_MARGIN = 0.25
"""Largest part of the target that is kept free for errors of prediction."""
BY_TOKENS = StepCost(fixed=0.0, prefill=1.0, row=1.0, attended=0.0)
"""Without a target a step is as long as its tokens."""


class Prompt(NamedTuple):
    """A row that is computing its prompt."""

    pending: int
    """Tokens it may compute now; at least 1."""
    remaining: int
    """Tokens it has to compute in all; at least pending."""
    context: int
    """Tokens in its KV."""


def prompt_ms(cost: StepCost, decode: Work, target_ms: float, streaming: bool) -> float:
    """Milliseconds of the next step for prompts, beside its decoding rows `decode` (prefill 0).

    `streaming` says whether anyone waits for a next token: also a row that waits for its lease.
    """
    without = cost.step_ms(decode)
    if not streaming:
        return max(IDLE_STEP_MS, cost.fixed / FIXED_SHARE) - without
    # Twice the mean error: few steps are further out.
    aim_ms = target_ms * (1 - min(2 * cost.error, MOST_MARGIN))
    return max(aim_ms - without, without * PROMPT_SHARE / (1 - PROMPT_SHARE))


def chunks(prompts: Sequence[Prompt], cost: StepCost, ms: float, tokens: int) -> list[int]:
    """Tokens of each of `prompts` (at least one, in order of precedence) that the step takes.

    Together they take at most `ms`, but the first gets a token in any case, and never more than `tokens`.
    """
    counts = [0] * len(prompts)
    left_ms, left = ms, tokens

    def grant(index: int, within_ms: float, least: int = 0) -> None:
        nonlocal left_ms, left
        prompt, had = prompts[index], counts[index]
        context = prompt.context + had
        count = int(min(prompt.pending - had, left, max(least, cost.tokens_within(within_ms, context))))
        counts[index] += count
        left -= count
        left_ms -= cost.chunk_ms(count, context)

    grant(0, ms / 2, least=1)
    for index in sorted(range(len(prompts)), key=lambda index: prompts[index].remaining):
        if left <= 0 or left_ms <= 0:
            break
        grant(index, left_ms)
    return counts
