"""Answers scored by the memory actor: every dimension tells good from bad, and what is kept of it cannot be changed."""

import asyncio
import base64

import pytest

from actors.base.errors import InvalidArgument
from actors.memory.chain import point_id
from actors.memory.quality.scorer import DIMENSIONS, total
from actors.memory.store import Entry
from protos.gen.inference_pb2 import Grammar
from protos.gen.memory_pb2 import (
    Answered,
    AppendWitnessRequest,
    Demand,
    EmbedRequest,
    Quality,
    QueryWitnessRequest,
    ScoreRequest,
    VerifyWitnessRequest,
    WitnessEntry,
)

QUESTION = "How do I keep my houseplants healthy in winter?"
GOOD = (
    "Houseplants need less water in winter, because they grow more slowly. Let the soil dry before you water again. "
    "Move the pots to a bright window, since the days are short. Dry indoor air harms many plants, so mist the leaves."
)
ASTRAY = (
    "The stock market fell sharply on Tuesday. My grandmother baked an apple cake. "
    "Photons have no mass at rest. The goalkeeper was sent off after the break."
)
LOOPING = "Water the plants. Water the plants. Water the plants. Water the plants. Water the plants."
UNDATED = GOOD + " Feed them again from March 2025 to October 2025."
MISDATED = GOOD + " Feed them again from October 2025 to March 2025, and on February 31, 2026."
WEIGHTS = (0.2, 0.25, 0.2, 0.15, 0.2)
FORM = Grammar(json_schema='{"type": "object", "required": ["tip"]}')
_ids = iter(range(1000))


async def score(memory, text: str, question: str = QUESTION, tenant: str = "", demands=(), name: str = "") -> Quality:
    vector = (await memory.stub.Embed(EmbedRequest(texts=[question]))).values if question else []
    answer = Answered(
        id=name or f"r{next(_ids)}",
        tenant=tenant,
        time_ms=1_780_000_000_000,
        query_embedding=vector,
        text=text,
        demands=demands,
    )
    return (await memory.stub.Score(ScoreRequest(answers=[answer]))).qualities[0]


async def test_every_dimension_tells_good_from_bad(opening):
    async with opening() as memory:
        good = await score(memory, GOOD)
        assert good.coherence > 0.7
        assert good.diversity > 0.5
        assert (good.schema, good.temporal, good.uniqueness) == (1, 1, 1)
        assert (await score(memory, ASTRAY)).coherence < 0.1
        assert (await score(memory, GOOD, "Who won the Thirty Years' War?", "other")).coherence < good.coherence - 0.3
        assert (await score(memory, LOOPING)).diversity < good.diversity / 3
        assert (await score(memory, UNDATED, tenant="dated")).temporal == 1
        assert (await score(memory, MISDATED, tenant="dated")).temporal == pytest.approx(0.6 / 3 + 0.4 / 3)
        assert (await score(memory, GOOD)).uniqueness == 0
        assert 0 < (await score(memory, GOOD + " Do not feed them before spring comes.")).uniqueness < 0.3
        whole, part = Demand(text='{"tip": 1}', grammar=FORM), Demand(text='{"top": 1}', grammar=FORM)
        assert (await score(memory, GOOD, demands=[whole])).schema == 1
        assert (await score(memory, GOOD, demands=[whole, part])).schema == pytest.approx((1 + 1 / 2) / 2)
        unread = Demand(text="{}", grammar=Grammar(json_schema="3"))
        assert (await score(memory, GOOD, demands=[unread, part])).schema == pytest.approx(1 / 2)


async def test_the_total_is_the_weighted_mean(opening):
    async with opening() as memory:
        quality = await score(memory, MISDATED)
        scores = [getattr(quality, dimension) for dimension in DIMENSIONS]
        assert quality.total == pytest.approx(sum(map(float.__mul__, scores, WEIGHTS)))
    async with opening(quality_weights=(0, 0, 0, 2, 0)) as memory:
        quality = await score(memory, MISDATED)
        assert quality.total == pytest.approx(quality.temporal)
        assert total(Quality(schema=1, temporal=0.5), (1, 0, 0, 1, 0)) == 0.75


async def test_each_score_is_observed(opening):
    async with opening() as memory:
        quality = await score(memory, MISDATED)
        for dimension in (*DIMENSIONS, "total"):
            sample = memory.telemetry.registry.get_sample_value
            labels = {"dimension": dimension}
            assert sample("russet_answer_quality_sum", labels) == pytest.approx(getattr(quality, dimension))
            assert sample("russet_answer_quality_count", labels) == 1


async def test_asked_again_an_answer_scores_as_it_did(opening):
    async with opening() as memory:
        assert await score(memory, GOOD, name="r") == await score(memory, GOOD, name="r")


@pytest.mark.parametrize("text", ["", "?", "🎉🎉", "a", "x" * 200_000])
async def test_any_text_has_a_score(opening, text):
    async with opening() as memory:
        quality = await score(memory, text, question="")
        assert all(0 <= value <= 1 for _, value in quality.ListFields())
        assert quality.total > 0


async def test_what_cannot_be_scored_is_refused_by_name(opening):
    async with opening() as memory:
        for answer, what in (
            (Answered(text="no id"), "id"),
            (Answered(id="r", query_embedding=[1.0]), "query_embedding"),
        ):
            with pytest.raises(InvalidArgument, match=what):
                await memory.stub.Score(ScoreRequest(answers=[answer]))


async def test_scores_stand_in_the_witness_log_and_cannot_be_changed(opening):
    async with opening() as memory:
        quality = await score(memory, MISDATED)
        entry = WitnessEntry(id="r", tenant="acme", scores=quality, quality=quality.total)
        await memory.stub.AppendWitness(AppendWitnessRequest(entries=[entry]))
        await memory.service.witness.flush()
        below = QueryWitnessRequest(tenant="acme", quality_below=quality.total + 0.01)
        (found,) = (await memory.stub.QueryWitness(below)).records
        assert found.entry.scores == quality
        assert (await memory.stub.VerifyWitness(VerifyWitnessRequest())).sound
        collection = memory.service.witness._collection
        (stored,) = collection.get([point_id("r")])
        changed = WitnessEntry.FromString(base64.b64decode(stored.payload["blob"]))
        changed.scores.temporal = 1
        blob = base64.b64encode(changed.SerializeToString(deterministic=True)).decode()
        collection.upsert([Entry(stored.id, stored.payload | {"blob": blob}, None)])
        assert not (await memory.stub.VerifyWitness(VerifyWitnessRequest())).sound
        wrong = WitnessEntry(id="w", scores=Quality(temporal=1.5))
        with pytest.raises(InvalidArgument, match=r"scores\.temporal"):
            await memory.stub.AppendWitness(AppendWitnessRequest(entries=[wrong]))


async def test_scoring_lets_everybody_else_go_first(embedder, monkeypatch):
    order = []
    embed_ids = embedder._encoder.embed_ids

    def noting(ids):
        order.append(ids[0][1])
        return embed_ids(ids)

    monkeypatch.setattr(embedder._encoder, "embed_ids", noting)
    # Three turns each: 4 x 64 tokens of those that come last, 16 x 32 of the others.
    last = asyncio.create_task(embedder.embed_last(["last " * 62] * 12))
    first = [asyncio.create_task(embedder.embed([word * 30] * 40)) for word in ("north ", "south ")]
    await asyncio.gather(last, *first)
    words = embedder._encoder._tokenizer.decode
    assert sorted(words([each]) for each in order[:6]) == ["north"] * 3 + ["south"] * 3
    assert [words([each]) for each in order[6:]] == ["last"] * 3
