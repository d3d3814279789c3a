"""What the learned router decides for a request, as a pure function of what is known of it.

The model head tells how likely the small tier is enough; served models lie between the tiers by the logarithm of their
cost. Hard limits come first and are rules, not lessons: context, and a latency budget that a model is known to miss.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from actors.router.fastgrnn.cell import BUCKETS, CONFIDENCE, HIDDEN, LARGE, MODEL, SMALL, heads, logits, step
from actors.router.fastgrnn.cost import CostRouter
from actors.router.fastgrnn.features import FREE, Constraints, Served, features

TRUSTED = 0.7
"""With less confidence the cluster's default model answers."""


class Ask(NamedTuple):
    """A request, and the state its session left (None at the first turn)."""

    text: str
    """Of the last user turn."""
    vector: NDArray[np.float32] | None = None
    """Its sentence embedding [width] of the router's embedder, where there is one by now."""
    constraints: Constraints = FREE
    hidden: NDArray[np.float32] | None = None
    """[HIDDEN], as the session's last Decision had it."""


class Decision(NamedTuple):
    """What to do, and why."""

    model: str
    probabilities: dict[str, float]
    """That a model is the cheapest one that is enough, by name; they sum to 1."""
    enough: float
    """Calibrated probability that the small tier is as good as the large one."""
    context: int
    """Tokens of prompt and answer to make room for, of BUCKETS."""
    temperature: float
    top_p: float
    confidence: float
    """Calibrated probability that the answer will be right."""
    trusted: bool
    """False where confidence was below TRUSTED and the default model was taken for it."""
    hidden: NDArray[np.float32]
    """[HIDDEN], to be given with the session's next turn."""
    reasons: list[str]


def decide(
    router: CostRouter, ask: Ask, served: Sequence[Served], default: str = "", bar: float | None = None
) -> Decision:
    """Choose among `served`, the cheapest that is likely enough.

    `default` is the model for when the router is not sure of itself; empty, or not among those that may answer, leaves
    its choice. `bar` (0 to 1) is the probability of being enough that a model must reach; None is where the model head
    is even, which sends about half of what it was trained on to the large tier. Raises InvalidArgument for no models,
    one name twice, or a cost that is not positive.
    """
    _check(served, bar)
    if ask.vector is not None and len(ask.vector) != len(router.projection.center):
        raise InvalidArgument(
            f"an embedding of {len(ask.vector)} components; this router reads {len(router.projection.center)}, of "
            f"{router.projection.embedder}",
            param="embedding",
        )
    # Of models that cost the same, the default is as good as any.
    ranked = sorted(served, key=lambda model: (model.cost, model.name != default, model.name))
    x = features(ask.text, *router.told(ask.vector), ask.constraints, ranked)[None]
    before = np.zeros(HIDDEN, np.float32) if ask.hidden is None else ask.hidden
    hidden = step(router.weights, router.scale(x), before[None])
    outputs = logits(router.weights, hidden)
    told = heads(outputs)
    odds = outputs[:, MODEL][:, SMALL] - outputs[:, MODEL][:, LARGE]
    enough = float(router.enough(odds)[0])
    border = float(router.enough(np.zeros(1, np.float32))[0]) if bar is None else bar
    confidence = float(router.confidence(outputs[:, CONFIDENCE])[0])

    reach = _reach(ranked, enough)
    able, reasons = _able(ranked, ask.constraints)
    sufficient = [model for model in able if reach[model.name] >= border]
    chosen = (sufficient or able[-1:])[0]
    reasons.insert(0, _reason(chosen, ranked, enough, border, reach))
    trusted = confidence >= TRUSTED
    if not trusted and default != chosen.name and any(model.name == default for model in able):
        reasons.append(f"confidence {confidence:.2f} is below {TRUSTED:.2f}: {default}, the default, answers instead")
        chosen = next(model for model in able if model.name == default)
    return Decision(
        chosen.name,
        _shares(ranked, reach),
        enough,
        BUCKETS[int(told.context[0].argmax())],
        float(told.temperature[0]),
        float(told.top_p[0]),
        confidence,
        trusted,
        hidden[0],
        reasons,
    )


def _reach(ranked: Sequence[Served], enough: float) -> dict[str, float]:
    """Probability that each model is enough: of the cheapest `enough`, of the dearest 1, between them by log cost."""
    if len(ranked) == 1:
        return {ranked[0].name: 1.0}
    low, high = math.log(ranked[0].cost), math.log(ranked[-1].cost)
    span = high - low
    return {
        model.name: enough + (1 - enough) * ((math.log(model.cost) - low) / span if span else 1.0) for model in ranked
    }


def _shares(ranked: Sequence[Served], reach: dict[str, float]) -> dict[str, float]:
    shares, below = {}, 0.0
    for model in ranked:
        shares[model.name] = reach[model.name] - below
        below = reach[model.name]
    return shares


def _able(ranked: Sequence[Served], constraints: Constraints) -> tuple[list[Served], list[str]]:
    """The models within the hard limits, by cost, and what was left out; all of them where none is within."""
    able, reasons = [], []
    tokens = constraints.prompt_tokens + constraints.max_tokens
    for model in ranked:
        if 0 < model.context_length < tokens:
            reasons.append(f"{model.name} holds {model.context_length} tokens, {tokens} are needed")
        elif 0 < constraints.latency_budget_ms < model.ttft_ms:
            reasons.append(
                f"{model.name} takes {model.ttft_ms:.0f} ms to its first token, past the budget of "
                f"{constraints.latency_budget_ms:.0f} ms"
            )
        else:
            able.append(model)
    if not able:
        return list(ranked), [*reasons, "no model is within the limits: all are considered"]
    return able, reasons


def _reason(chosen: Served, ranked: Sequence[Served], enough: float, border: float, reach: dict[str, float]) -> str:
    if len(ranked) == 1:
        return f"{chosen.name} is the only model served"
    if reach[chosen.name] >= border:
        return (
            f"{chosen.name} is the cheapest of those allowed that is enough with probability {reach[chosen.name]:.2f}, "
            f"at least {border:.2f} (the small tier: {enough:.2f})"
        )
    return f"no model allowed is enough with probability {border:.2f}; {chosen.name} is the largest of them"


def _check(served: Sequence[Served], bar: float | None) -> None:
    if not served:
        raise InvalidArgument("no model to choose; accepted are one or more", param="served")
    if len({model.name for model in served}) < len(served):
        raise InvalidArgument(f"a model twice in {[model.name for model in served]}", param="served")
    for model in served:
        if not 0 < model.cost < math.inf:
            raise InvalidArgument(f"cost of {model.name} is {model.cost}; accepted is a positive number", param="cost")
    if bar is not None and not 0 <= bar <= 1:
        raise InvalidArgument(f"bar is {bar}; accepted is 0 to 1", param="bar")
