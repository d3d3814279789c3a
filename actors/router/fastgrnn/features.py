"""The 128 inputs of the learned router: one table of blocks, and how each is filled.

| columns | block | what |
|---|---|---|
| 0-31 | shape | length and shape of the prompt (form.SHAPE) |
| 32-47 | language | scripts, languages, code (form.LANGUAGE) |
| 48-57 | domain | one-hot of form.DOMAINS and "other" |
| 58-95 | embedding | the prompt's sentence embedding, projected |
| 96-107 | patterns | the nearest prompts of known outcome (patterns.STATISTICS) |
| 108-115 | constraints | latency budget, memory, load, tokens, turns |
| 116-127 | history | of the first MODELS served, by cost: success, time to first token, time per token |
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.router.fastgrnn.cell import INPUT
from actors.router.fastgrnn.form import DOMAINS, LANGUAGE, SHAPE, form

PROJECTED, STATISTICS, CONSTRAINTS, MODELS = 38, 12, 8, 4
_WIDTHS = {
    "shape": len(SHAPE),
    "language": len(LANGUAGE),
    "domain": len(DOMAINS) + 1,
    "embedding": PROJECTED,
    "patterns": STATISTICS,
    "constraints": CONSTRAINTS,
    "history": 3 * MODELS,
}
BLOCKS: dict[str, slice] = {}
"""Columns of each block."""
for _name, _width in _WIDTHS.items():
    _begin = max((block.stop for block in BLOCKS.values()), default=0)
    BLOCKS[_name] = slice(_begin, _begin + _width)
FORM = slice(0, BLOCKS["domain"].stop)


class Constraints(NamedTuple):
    """Under what a request is routed. Shares are 0..1; 0 where a number is not known."""

    latency_budget_ms: float = 0.0
    """Within which its first token is wanted; 0 is none."""
    memory_used: float = 0.0
    load: float = 0.0
    """Share of the fleet's batch places that are taken."""
    waiting: int = 0
    """Requests."""
    prompt_tokens: int = 0
    max_tokens: int = 0
    turns: int = 0
    """Of the session, before this one."""
    urgent: bool = False


FREE = Constraints()
"""None known."""


class Served(NamedTuple):
    """A model that may be chosen, and how its requests went. `cost` is in any unit; a larger model costs more."""

    name: str
    cost: float
    success: float = 1.0
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    context_length: int = 0
    """Tokens of prompt and answer together; 0 is not known."""


def features(
    text: str,
    projected: NDArray[np.float32] | None,
    statistics: NDArray[np.float32] | None,
    constraints: Constraints,
    served: Sequence[Served],
) -> NDArray[np.float32]:
    """The inputs [INPUT] of a request. NaN in blocks "embedding" and "patterns" where there is no embedding.

    `served` is in order of cost; of more than MODELS the cheapest and the dearest are told.
    """
    x = np.zeros(INPUT, np.float32)
    x[FORM] = form(text)
    x[BLOCKS["embedding"]] = np.nan if projected is None else projected
    x[BLOCKS["patterns"]] = np.nan if statistics is None else statistics
    x[BLOCKS["constraints"]] = (
        math.log1p(constraints.latency_budget_ms) / 10,
        float(constraints.latency_budget_ms > 0),
        constraints.memory_used,
        constraints.load,
        math.log1p(constraints.waiting),
        math.log1p(constraints.prompt_tokens + constraints.max_tokens) / 10,
        math.log1p(constraints.turns),
        float(constraints.urgent),
    )
    told = [*served[: MODELS - 1], *served[MODELS - 1 :][-1:]]
    history = [value for model in told for value in _history(model)]
    x[BLOCKS["history"].start : BLOCKS["history"].start + len(history)] = history
    return x


def _history(model: Served) -> tuple[float, float, float]:
    return model.success, math.log1p(model.ttft_ms) / 10, math.log1p(model.tpot_ms) / 10


class Scale(NamedTuple):
    """How inputs are brought to mean 0 and deviation 1. A column that training did not vary has `factor` 0: no say."""

    mean: NDArray[np.float32]
    factor: NDArray[np.float32]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled [n, INPUT], within -FAR..FAR; what is not known (NaN) is the mean."""
        return np.nan_to_num(np.clip((x - self.mean) * self.factor, -FAR, FAR), nan=0.0).astype(np.float32)


FAR = 4.0


def scale_of(x: NDArray[np.float32]) -> Scale:
    """The scale that fits rows `x` [n, INPUT]."""
    mean, deviation = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
    factor = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
    return Scale(mean.astype(np.float32), factor.astype(np.float32))
