"""Real sentences and their MiniLM vectors: what recall is measured on. Embedded once, kept in the user's cache."""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.memory.embedder import MAX_TEXTS, Embedder
from tests.oracles.running import DATA

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "russet"
_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")
_MARKS = re.compile(r"<<.*?>>|####.*")
"""GSM8K's calculator annotations and final answers."""
SHORTEST, LONGEST = 20, 400
"""Characters."""


def sentences() -> list[str]:
    """Those of the questions, answers, prompts and tasks in RUSSET_DATA, each once, in a fixed order."""
    pieces = (piece.strip() for text in _texts() for piece in _ENDS.split(_MARKS.sub("", text)))
    return list(dict.fromkeys(piece for piece in pieces if SHORTEST <= len(piece) <= LONGEST))


def _texts() -> Iterator[str]:
    for row in _rows("text/gsm8k_train.jsonl"):
        yield row["question"]
        yield row["answer"]
    for row in _rows("routing/strong_weak_train.jsonl"):
        yield row["prompt"]
    for row in _rows("routing/agent_tasks.jsonl"):
        yield row["text"]
    for name in ("mt_bench", "vicuna"):
        for row in _rows(f"prompts/{name}.jsonl"):
            yield from row["turns"]


def _rows(name: str) -> Iterator[dict]:
    with (DATA / name).open() as lines:
        yield from map(json.loads, lines)


async def vectors() -> NDArray[np.float32]:
    """Unit vectors [sentences, 384], from the cache where these sentences were embedded before."""
    texts = sentences()
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    kept = CACHE / f"sentences-minilm-{digest}.npy"
    if not kept.exists():
        embedder = Embedder(None)
        parts = [(await embedder.embed(texts[at : at + MAX_TEXTS]))[0] for at in range(0, len(texts), MAX_TEXTS)]
        embedder.close()
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}.npy")
        np.save(fresh, np.concatenate(parts))
        fresh.rename(kept)
    return np.load(kept)


if __name__ == "__main__":
    print(asyncio.run(vectors()).shape)
