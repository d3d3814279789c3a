"""Write the routers that ship with Russet.

python -m deploy.ship_routers $RUSSET_DATA/routing/agent_tasks.jsonl
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np

from actors.memory.embedder import Embedder
from actors.router.semantic.features import Features, views, words
from actors.router.semantic.model import fit
from actors.router.semantic.shipped import Shipped, save

SOURCE = "agent routing tasks of ruvector, MIT licence, copyright (c) its authors"


def main(data: Path) -> None:
    """Embed the tasks of `data` and write the router "agents"."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    pairs = sorted({row["text"]: row["label"] for row in rows}.items())
    embedder = Embedder(None)
    vectors, _ = asyncio.run(embedder.embed([part for text, _ in pairs for part in views(text)]))
    embedder.close()
    dense = vectors.astype(np.float16).reshape(len(pairs), -1)
    texts, labels = zip(*pairs, strict=True)
    fitted = fit(Features(dense.astype(np.float32), words(texts)), labels)
    path = save(Shipped("agents", embedder.model, pairs, dense, fitted), SOURCE)
    print(f"{path}: {len(pairs)} examples, {path.stat().st_size} bytes, held out: {fitted.quality}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
