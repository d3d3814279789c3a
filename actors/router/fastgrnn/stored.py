"""A cost router as a JSON object, small enough for a policy: what ships with Russet and what memory keeps."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from actors.router.fastgrnn.cell import SHAPES, Weights
from actors.router.fastgrnn.cost import CostRouter, Platt, Quality
from actors.router.fastgrnn.features import INPUT, PROJECTED, Scale
from actors.router.fastgrnn.metric import Interval
from actors.router.fastgrnn.patterns import Bank, Projection

FORMAT = "fastgrnn-cost-1"
SHIPPED = Path(__file__).parent / "weights" / "cost.json"


def dump(router: CostRouter) -> str:
    """As JSON. Tensors are base64 of little-endian float16, the bank int8; scales stay float32."""
    return json.dumps(
        {
            "format": FORMAT,
            "embedder": router.projection.embedder,
            "weights": {name: _packed(each, "<f2") for name, each in router.weights._asdict().items()},
            "fisher": {name: _packed(each, "<f2") for name, each in router.fisher._asdict().items()},
            "scale": [_packed(router.scale.mean, "<f4"), _packed(router.scale.factor, "<f4")],
            "center": _packed(router.projection.center, "<f2"),
            "directions": _packed(router.projection.directions, "<f2"),
            "bank": _packed(router.bank.vectors, "|i1"),
            "outcomes": _packed(router.bank.outcomes, "|i1"),
            "enough": router.enough,
            "confidence": router.confidence,
            "quality": router.quality,
        }
    )


def parse(text: str) -> CostRouter:
    """The router that `dump` wrote. Raises InvalidArgument for anything else."""
    try:
        told: dict[str, Any] = json.loads(text)
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}")
        center = _unpacked(told["center"], "<f2", (-1,))
        bank = _unpacked(told["bank"], "|i1", (-1, PROJECTED))
        rows, over_chance, over_length, *errors = told["quality"]
        return CostRouter(
            _weights(told["weights"]),
            Scale(*(_unpacked(each, "<f4", (INPUT,)) for each in told["scale"])),
            Projection(told["embedder"], center, _unpacked(told["directions"], "<f2", (len(center), PROJECTED))),
            Bank(bank.astype(np.int8), _unpacked(told["outcomes"], "|i1", (len(bank), 2))),
            Platt(*told["enough"]),
            Platt(*told["confidence"]),
            _weights(told["fisher"]),
            Quality(rows, Interval(*over_chance), Interval(*over_length), *errors),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"not a cost router ({error}); accepted is an object of format {FORMAT}") from None


def shipped() -> CostRouter:
    """The one that comes with Russet; `deploy/ship_cost_router.py` writes it."""
    return parse(SHIPPED.read_text())


def _weights(told: dict[str, str]) -> Weights:
    return Weights(**{name: _unpacked(told[name], "<f2", shape) for name, shape in SHAPES.items()})


def _packed(array: NDArray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()


def _unpacked(text: str, dtype: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype).reshape(shape).astype(np.float32)
