"""What the cost router recovers of the gap between a small and a large model, and how long a decision takes.

    python -m tests.benchmarks.cost [--shuffles 4]

Recovered: at 25, 50 and 75 % calls of the large model, less that share, the mean of the three, on the questions of
$RUSSET_DATA/routing/strong_weak_train.jsonl. Routers are trained on four fifths and asked on the fifth, near-duplicates
on one side, with several shuffles of the fifths; beside it stand the length of the prompt and its source (multiple
choice or not). 95 % intervals by paired bootstrap. Decisions: processor time of one, its embedding given, by parts.
"""

import argparse
import asyncio
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from actors.memory.embedder import Embedder
from actors.router.fastgrnn import fitting, patterns
from actors.router.fastgrnn.cell import HIDDEN, heads, logits, step
from actors.router.fastgrnn.decision import Ask, decide
from actors.router.fastgrnn.features import Served
from actors.router.fastgrnn.form import form
from actors.router.fastgrnn.learning import Plan
from actors.router.fastgrnn.metric import compare
from actors.router.fastgrnn.stored import shipped
from deploy.ship_cost_router import EMBED_BATCH, rows
from tests.benchmarks.quality import DATA

FIRST = 10
"""Shuffles before this one are those that the plan of training was chosen on."""
TIMED = 400
MODELS = [Served("small", 1.0), Served("large", 8.0)]


def embedded(prompts: list[str]) -> NDArray[np.float32]:
    """MiniLM's vectors."""
    embedder = Embedder(None)
    batches = [prompts[start : start + EMBED_BATCH] for start in range(0, len(prompts), EMBED_BATCH)]
    vectors = np.concatenate([asyncio.run(embedder.embed(batch))[0] for batch in batches])
    embedder.close()
    return vectors


def accuracy(given: list[fitting.Row], vectors: NDArray[np.float32], shuffles: int) -> Table:
    """What is recovered."""
    taught = fitting.lessons(given, vectors, patterns.projection("", vectors))
    asked = np.flatnonzero(~np.isnan(taught.outcomes[:, 0]))
    small, large = taught.outcomes[asked].T
    odds = np.stack([fitting.held_out(taught, Plan(), seed=FIRST + turn)[0] for turn in range(shuffles)])
    lengths = np.array([len(given[place].prompt) for place in asked], float)
    choice = np.array(["\nA. " in given[place].prompt for place in asked], float)
    source = choice + 1e-6 * np.random.default_rng(0).random(len(asked))
    table = Table("router", "over chance", "FastGRNN's lead", title=f"gap recovered, {len(asked)} questions")
    table.add_row("FastGRNN", str(compare(odds, None, small, large)), "")
    for name, other in (("prompt length", -lengths), ("source", source)):
        table.add_row(name, str(compare(other, None, small, large)), str(compare(odds, other, small, large)))
    return table


def speed(given: list[fitting.Row], vectors: NDArray[np.float32]) -> Table:
    """Processor time of each part of a decision."""
    router = shipped()
    texts = [row.prompt for row in given[:TIMED]]
    inputs = [router.inputs(text, vector)[None] for text, vector in zip(texts, vectors, strict=False)]
    begun = np.zeros((1, HIDDEN), np.float32)
    parts: dict[str, Callable[[int], object]] = {
        "form of the prompt": lambda turn: form(texts[turn]),
        "projection and neighbours": lambda turn: router.told(vectors[turn]),
        "cell and heads": lambda turn: heads(
            logits(router.weights, step(router.weights, router.scale(inputs[turn]), begun))
        ),
        "decision, all of it": lambda turn: decide(router, Ask(texts[turn], vectors[turn]), MODELS),
    }
    table = Table("part", "p50 us", "p90 us", "p99 us", title="processor time of a decision, its embedding given")
    for name, part in parts.items():
        taken = []
        for turn in range(len(texts)):
            began = time.thread_time()
            part(turn)
            taken.append((time.thread_time() - began) * 1e6)
        table.add_row(name, *(f"{value:.0f}" for value in np.quantile(taken, [0.5, 0.9, 0.99])))
    return table


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shuffles", type=int, default=4)
    chosen, out = parser.parse_args(), Console()
    given = rows(DATA)
    vectors = embedded([row.prompt for row in given])
    with threadpool_limits(1):
        out.print(speed(given, vectors))
        out.print(accuracy(given, vectors, chosen.shuffles))


if __name__ == "__main__":
    main()
