"""Memory's index beside an HNSW graph: building, inserting, searching and recall, on real sentences and expanded ones.

    python -m tests.benchmarks.nearest [--count 66000] [--width 384]

In this process, on one thread each, in processor time: milliseconds a search, microseconds an insert. The graph is
usearch's, in half precision, with the numbers that a Qdrant server gets (M 32, ef_construct 200, ef 64). It knows no
filter, so both search all rows. Past the number of sentences, rows are sums of two and noise; another width is a
projection.
"""

import argparse
import asyncio
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from usearch.index import Index

from actors.memory.index import VectorIndex
from actors.memory.store import Entry, Schema, Where
from tests.benchmarks import sentences

QUERIES, NEAREST, BATCH = 300, 10, 500


def expanded(real: NDArray[np.float32], count: int, width: int) -> NDArray[np.float32]:
    """Unit vectors [count, width] that begin with the real ones, where those are as wide."""
    draw = np.random.default_rng(0)
    if width != real.shape[1]:
        real = real @ (draw.normal(size=(real.shape[1], width)) / np.sqrt(width)).astype(np.float32)
    more = max(count - len(real), 0)
    mixed = real[draw.integers(len(real), size=more)] + real[draw.integers(len(real), size=more)]
    mixed += 0.02 * draw.normal(size=mixed.shape).astype(np.float32)
    rows = np.concatenate([real[:count], mixed])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=66_000, help="rows")
    parser.add_argument("--width", type=int, default=384)
    arguments = parser.parse_args()
    real = np.random.default_rng(4).permutation(asyncio.run(sentences.vectors()))
    rows = expanded(real[QUERIES:], arguments.count, arguments.width)
    queries = expanded(real[:QUERIES], QUERIES, arguments.width)
    truth = [set(np.argpartition(-(rows @ query), NEAREST)[:NEAREST].tolist()) for query in queries]

    ours = VectorIndex(Schema("rows", arguments.width, "minilm"))
    entries = [
        [Entry(str(at), {}, row) for at, row in enumerate(rows[first : first + BATCH], first)]  # type: ignore[arg-type]
        for first in range(0, len(rows), BATCH)
    ]
    graph = Index(
        ndim=arguments.width, metric="cos", dtype="f16", connectivity=32, expansion_add=200, expansion_search=64
    )
    keys = np.arange(len(rows))
    table = Table("", "insert, us", "search, median ms", "search, 99th", f"recall@{NEAREST}")
    fills: dict[str, tuple[Callable[[], object], Callable[[NDArray[np.float32]], set[int]]]] = {
        "memory's index": (
            lambda: [ours.put(some) for some in entries],
            lambda query: {int(id_) for id_, _ in ours.nearest(query, NEAREST, Where())},  # type: ignore[arg-type]
        ),
        "usearch HNSW": (
            lambda: graph.add(keys, rows, threads=1),
            lambda query: set(graph.search(query, NEAREST, threads=1).keys.tolist()),
        ),
    }
    for name, (fill, search) in fills.items():
        began = time.process_time()
        fill()
        insert_us = 1e6 * (time.process_time() - began) / len(rows)
        milliseconds, found = [], []
        for query, true in zip(queries, truth, strict=True):
            began = time.process_time()
            found.append(len(search(query) & true) / NEAREST)
            milliseconds.append(1e3 * (time.process_time() - began))
        median, late = np.quantile(milliseconds, [0.5, 0.99])
        table.add_row(name, f"{insert_us:.0f}", f"{median:.2f}", f"{late:.2f}", f"{np.mean(found):.4f}")
    Console().print(f"{len(rows):,} x {arguments.width}, all rows searched", table)


if __name__ == "__main__":
    main()
