"""Routers that come with Russet: examples, vectors and weights in a safetensors file: a fresh install answers.

`deploy/ship_routers.py` writes them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from actors.router.semantic.features import BUCKETS
from actors.router.semantic.head import Head
from actors.router.semantic.model import Fitted, Quality

DIRECTORY = Path(__file__).parent / "weights"


class Shipped(NamedTuple):
    """A router: `pairs` of text and label, and their vectors `dense` [n, VIEWS * width]."""

    name: str
    embedder: str
    pairs: list[tuple[str, str]]
    dense: NDArray[np.float16]
    fitted: Fitted


def load() -> Iterator[Shipped]:
    """All, by name."""
    for path in sorted(DIRECTORY.glob("*.safetensors")):
        with safe_open(path, "numpy") as opened:
            about = json.loads(opened.metadata()["about"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        words = np.zeros((BUCKETS, len(about["labels"])), np.float32)
        words[tensors["words_at"]] = tensors["words"]
        rarity = np.zeros(BUCKETS, np.float32)
        rarity[tensors["words_at"]] = tensors["rarity"]
        fitted = Fitted(
            about["labels"],
            tensors["targets"].astype(np.intp),
            about["views"],
            about["head_weight"],
            about["sharpness"],
            about["nearness"],
            about["threshold"],
            Quality(*about["quality"]),
            rarity,
            Head(tensors["head"], words, tensors["bias"]),
        )
        pairs = [(text, label) for text, label in about["pairs"]]
        yield Shipped(path.stem, about["embedder"], pairs, tensors["dense"], fitted)


def save(shipped: Shipped, source: str) -> Path:
    """Write a router; `source` says where its examples come from."""
    fitted = shipped.fitted
    used = np.flatnonzero(fitted.rarity)
    tensors = {
        "dense": shipped.dense,
        "targets": fitted.targets.astype(np.int32),
        "head": fitted.head.dense,
        "bias": fitted.head.bias,
        "words_at": used.astype(np.int32),
        "words": fitted.head.words[used],
        "rarity": fitted.rarity[used],
    }
    about = {
        "embedder": shipped.embedder,
        "labels": fitted.labels,
        "views": fitted.views,
        "head_weight": fitted.head_weight,
        "sharpness": fitted.sharpness,
        "nearness": fitted.nearness,
        "threshold": fitted.threshold,
        "quality": fitted.quality,
        "pairs": shipped.pairs,
    }
    DIRECTORY.mkdir(exist_ok=True)
    path = DIRECTORY / f"{shipped.name}.safetensors"
    save_file(tensors, path, {"source": source, "about": json.dumps(about)})
    return path
