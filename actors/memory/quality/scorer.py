"""Scores answers: embeds a few of their sentences, where nobody else waits for the embedder, and counts the rest.

What an answer costs is bounded: `quality_sentences` sentences of at most SENTENCE_CHARS characters are embedded.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import numpy as np

from actors.base.conformance import judge
from actors.base.errors import InvalidArgument
from actors.base.telemetry import Telemetry
from actors.memory import limits
from actors.memory.config import MemoryConfig
from actors.memory.quality.coherence import Vectors, coherence
from actors.memory.quality.diversity import diversity
from actors.memory.quality.sentences import chosen, sentences, words
from actors.memory.quality.temporal import temporal_realism
from actors.memory.quality.uniqueness import WORDS, Recent, sketch
from protos.gen import memory_pb2

log = logging.getLogger(__name__)

DIMENSIONS = ("schema", "coherence", "diversity", "temporal", "uniqueness")
SENTENCE_CHARS = 160
"""Embedded of a sentence: some 35 tokens."""
TEXT_CHARS = 1 << 20
MAX_ANSWERS = 1000
_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
Embed = Callable[[Sequence[str]], Awaitable[tuple[Vectors, int]]]


def excerpt(text: str, most: int) -> tuple[list[str], list[int]]:
    """The sentences of an answer that are embedded, and their places among all of its sentences."""
    found = sentences(text)
    places = chosen(len(found), most)
    return [found[place][:SENTENCE_CHARS] for place in places], places


def total(quality: memory_pb2.Quality, weights: Sequence[float]) -> float:
    """The five scores' mean by weight (in the order of DIMENSIONS), not all of them 0."""
    scores = [getattr(quality, dimension) for dimension in DIMENSIONS]
    return sum(score * weight for score, weight in zip(scores, weights, strict=True)) / sum(weights)


class Scorer:
    """Holds what the recent answers were."""

    def __init__(self, config: MemoryConfig, embed: Embed, width: int, telemetry: Telemetry) -> None:
        """`embed` makes vectors of length 1 and this width, at the lowest priority."""
        self._config = config
        self._embed = embed
        self._width = width
        self._recent = Recent(config.quality_recent)
        self._scores = telemetry.histogram(
            "russet_answer_quality", "Scores of answers, 0 to 1, and their weighted mean", _BUCKETS, ("dimension",)
        )

    async def score(self, answers: Sequence[memory_pb2.Answered]) -> list[memory_pb2.Quality]:
        """One for each answer. Raises InvalidArgument or TooLarge, and scores none, where one cannot be scored."""
        if len(answers) > MAX_ANSWERS:
            raise InvalidArgument(f"{len(answers)} answers to score; accepted: {MAX_ANSWERS}", param="answers")
        for answer in answers:
            limits.name(answer.id, "id")
            limits.name(answer.tenant, "tenant", empty=True)
            limits.vector(answer.query_embedding, self._width, "query_embedding")
            limits.size(len(answer.text), TEXT_CHARS, "text of an answer")
        return [await self._one(answer) for answer in answers]

    async def _one(self, answer: memory_pb2.Answered) -> memory_pb2.Quality:
        texts, places = await asyncio.to_thread(excerpt, answer.text, self._config.quality_sentences)
        vectors, _ = await self._embed(texts)
        quality, sketched = await asyncio.to_thread(self._quality, answer, vectors, places)
        quality.uniqueness = self._recent.uniqueness(answer.tenant, answer.id, sketched)
        quality.total = total(quality, self._config.quality_weights)
        for dimension in (*DIMENSIONS, "total"):
            self._scores.labels(dimension=dimension).observe(getattr(quality, dimension))
        return quality

    def _quality(
        self, answer: memory_pb2.Answered, vectors: Vectors, places: Sequence[int]
    ) -> tuple[memory_pb2.Quality, frozenset[int]]:
        """All but the uniqueness, and what that is told by."""
        config = self._config
        question = np.asarray(answer.query_embedding, np.float32) if answer.query_embedding else None
        said = words(answer.text, WORDS)
        shares = [share for demand in answer.demands if (share := _share(demand)) is not None]
        quality = memory_pb2.Quality(
            schema=sum(shares) / len(shares) if shares else 1.0,
            coherence=coherence(vectors, places, question, config.quality_neighbours, config.quality_answers),
            diversity=diversity(said, vectors),
            temporal=temporal_realism(answer.text, datetime.fromtimestamp(answer.time_ms / 1e3, UTC).date()),
        )
        return quality, sketch(said)


def _share(demand: memory_pb2.Demand) -> float | None:
    """Valid share; None where only those who enforced the grammar can read it, as some regular expressions."""
    try:
        return judge(demand.text, demand.grammar).share
    except InvalidArgument as error:
        log.info("a demand does not count: %s", error)
        return None
