"""Passages in the order that usage suggests, beside similarity's, for questions that nothing was learned from.

    python -m tests.benchmarks.reranking, or the part `reranking` of python -m tests.benchmarks.

With the weights that ship, on what deploy.ship_graph_reranker keeps apart. A round draws anew which questions were
asked before, and whose usage was wrong. The column of shuffled edges is a control: a gain there would come from
elsewhere than usage. The last column is of a store that similarity serves well, where the verdict leaves it alone.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from numpy.typing import NDArray
from rich.console import Console

from actors.base.errors import NotFound
from actors.memory.embedder import Embedder
from actors.memory.reranking.attention import load, scores
from deploy.ship_graph_reranker import Corpus, answers, asked, embedded, gains, interval, schemas
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples, show, take
from tests.oracles.running import DATA

FIRST = Figure("the right passage is first, by similarity", "%")
FIRST_BY_USAGE = Figure("the right passage is first, by usage", "%")
FIVE = Figure("it is among the first five, by similarity", "%")
FIVE_BY_USAGE = Figure("it is among the first five, by usage", "%")
MRR = Figure("mean reciprocal rank, by similarity", "")
MRR_BY_USAGE = Figure("mean reciprocal rank, by usage", "")
NDCG = Figure("nDCG at 10, by similarity", "")
NDCG_BY_USAGE = Figure("nDCG at 10, by usage", "")
GAIN = Figure("gain in reciprocal rank: lower end of its 95 % interval, over passages", "")
HIGH = Figure("upper end", "")
TOOK = Figure("scoring 50 passages", "ms", higher_is_better=False)


class HeldOut:
    """A corpus, and a number that each round draws by."""

    def __init__(self, corpus: Corpus, vectors: tuple[NDArray[Any], NDArray[Any]], *, shuffled: bool = False) -> None:
        self._corpus = corpus
        self._vectors = vectors
        self._shuffled = shuffled
        self._round = 100

    async def measured(self) -> Samples:
        """One round."""
        self._round += 1
        some = asked(self._corpus, *self._vectors, learned=False, seed=self._round, shuffled=self._shuffled)
        weights = load()
        plain, ours = gains(None, some), gains(weights, some)
        low, high = interval(ours - plain, some.own)
        began = time.perf_counter()
        for evidence in some.evidence:
            scores(weights, evidence)
        took_ms = 1e3 * (time.perf_counter() - began) / len(some.evidence)
        by_similarity, by_usage = plain.mean(0), ours.mean(0)
        return {
            FIRST: [100 * by_similarity[0]],
            FIRST_BY_USAGE: [100 * by_usage[0]],
            FIVE: [100 * by_similarity[1]],
            FIVE_BY_USAGE: [100 * by_usage[1]],
            MRR: [by_similarity[2]],
            MRR_BY_USAGE: [by_usage[2]],
            NDCG: [by_similarity[3]],
            NDCG_BY_USAGE: [by_usage[3]],
            GAIN: [low[2]],
            HIGH: [high[2]],
            TOOK: [took_ms],
        }


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    if not (DATA / "json_schema").is_dir():
        raise NotFound(f"no texts at {DATA}: set RUSSET_DATA to where they are")

    def read() -> list[HeldOut]:
        suite, found = schemas(DATA), answers(DATA, learned=False)
        embedder = Embedder(None)
        vectors = [(embedded(each.passages, embedder), embedded(each.questions, embedder)) for each in (suite, found)]
        embedder.close()
        return [HeldOut(suite, vectors[0]), HeldOut(suite, vectors[0], shuffled=True), HeldOut(found, vectors[1])]

    kinds = await asyncio.to_thread(read)
    names = ("JSON Schema", "its edges shuffled", "GSM8K")
    yield [Contender(name, kind.measured) for name, kind in zip(names, kinds, strict=True)]


PART = Part("reranking", "Passages in the order of usage", _contenders)


def main() -> None:
    """Run it once."""
    show(asyncio.run(take(PART, Options(rounds=3), lambda what: None)), Console(width=140))


if __name__ == "__main__":
    main()
