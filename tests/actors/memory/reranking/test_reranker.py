"""Usage has a say where it was shown to be better, of the tenant's own questions, and nowhere else."""

import numpy as np
import pytest

from actors.base.passages import node_of
from actors.memory.reranking.reranker import LEAST_QUESTIONS, Verdict
from protos.gen.documents_pb2 import (
    STATUS_COMPLETED,
    AttachedRequest,
    AttachRequest,
    Chunk,
    Chunking,
    PutFileRequest,
    PutStoreRequest,
    SearchReply,
    SearchRequest,
)
from protos.gen.memory_pb2 import EdgeUpdate, EmbedRequest, Node, UpdateEdgesRequest

TOPICS = (
    "zebra", "violin", "glacier", "pepper", "bicycle", "lantern", "harbour", "pyramid", "thunder", "orchid",
    "compass", "saddle", "volcano", "teapot", "falcon", "ladder", "walnut", "anchor", "mirror", "cactus",
)  # fmt: skip
RULES = [f"Rule {number}: file it under section {chr(65 + number)}{number * 7 % 20}." for number in range(len(TOPICS))]
EARLIER = ("Where do I put papers on the {}?", "Which place is for documents of a {}?")
NOW = "Where should I file things about the {}?"


async def shelf(memory, tenant: str = "t") -> tuple[str, list[Chunk]]:
    """A vector store of the rules, and a chunk for each."""
    file = await memory.documents.PutFile(
        PutFileRequest(tenant=tenant, name="rules.txt", content="\n\n".join(RULES).encode())
    )
    store = await memory.documents.PutStore(PutStoreRequest(tenant=tenant, name="rules"))
    where = {"tenant": tenant, "store_id": store.id, "file_id": file.id}
    await memory.documents.Attach(AttachRequest(**where, chunking=Chunking(max_tokens=16)))
    while (await memory.documents.GetAttached(AttachedRequest(**where))).status != STATUS_COMPLETED:
        await memory.service.documents._ingestion._work
    found = (await search(memory, store.id, "Rule", tenant, 50)).chunks
    assert len(found) == len(RULES)
    return store.id, sorted(found, key=lambda chunk: chunk.index)


async def search(memory, store: str, query: str, tenant: str = "t", limit: int = 3) -> SearchReply:
    return await memory.documents.Search(SearchRequest(tenant=tenant, store_ids=[store], query=query, limit=limit))


async def ask_before(memory, targets: list[Chunk], weight: float = 0.5, tenant: str = "t") -> None:
    """Both earlier questions of each topic, whose answers used the target."""
    texts = [text.format(topic) for topic in TOPICS for text in EARLIER]
    values = np.array((await memory.stub.Embed(EmbedRequest(texts=texts))).values).reshape(len(texts), -1)
    nodes = [Node(name=f"query:{at}", embedding=row) for at, row in enumerate(values)]
    used = [
        EdgeUpdate(source=f"query:{at}", target=node_of(targets[at // 2]), kind="used", add=weight)
        for at in range(len(texts))
    ]
    await memory.stub.UpdateEdges(UpdateEdgesRequest(tenant=tenant, updates=used, nodes=nodes))


async def test_where_usage_was_better_it_orders_what_is_found(opening):
    async with opening() as memory:
        store, rules = await shelf(memory)
        reranker = memory.service.reranker
        assert (await reranker.judge("t", store)).questions == 0
        assert not (await search(memory, store, NOW.format("zebra"))).by_usage
        await ask_before(memory, rules)
        verdict = await reranker.judge("t", store)
        assert verdict.questions == 2 * len(TOPICS)
        assert verdict.better
        replies = [await search(memory, store, NOW.format(topic)) for topic in TOPICS]
        assert all(reply.by_usage for reply in replies)
        first = [reply.chunks[0].index == at for at, reply in enumerate(replies)]
        assert np.mean(first) >= 0.8
        assert memory.metric("russet_documents_reranked_total") == len(TOPICS)
        # The cosines are told as they are.
        assert 0 < replies[0].chunks[0].score < 1
        memory.valkey.kill()
        without = await search(memory, store, NOW.format("zebra"))
        assert not without.by_usage
        assert [each.score for each in without.chunks] == sorted((each.score for each in without.chunks), reverse=True)
        await memory.service.hot._reviving
        # Another tenant's questions and files are none of it.
        other, _ = await shelf(memory, "other")
        assert (await reranker.judge("other", other)).questions == 0
        assert not (await search(memory, other, NOW.format("zebra"), "other")).by_usage


async def test_usage_that_is_not_better_has_no_say(opening):
    async with opening() as memory:
        store, rules = await shelf(memory)
        # Each earlier question used another rule than the next one like it: nothing is to be learned from that.
        shuffled = [rules[at] for at in np.random.default_rng(5).permutation(2 * len(rules)) % len(rules)]
        texts = [text.format(topic) for topic in TOPICS for text in EARLIER]
        values = np.array((await memory.stub.Embed(EmbedRequest(texts=texts))).values).reshape(len(texts), -1)
        nodes = [Node(name=f"query:{at}", embedding=row) for at, row in enumerate(values)]
        used = [
            EdgeUpdate(source=f"query:{at}", target=node_of(chunk), kind="used", add=0.5)
            for at, chunk in enumerate(shuffled)
        ]
        await memory.stub.UpdateEdges(UpdateEdgesRequest(tenant="t", updates=used, nodes=nodes))
        verdict = await memory.service.reranker.judge("t", store)
        assert verdict.questions == len(texts)
        assert not verdict.better
        assert not (await search(memory, store, NOW.format("zebra"))).by_usage


async def test_answers_rated_badly_are_no_evidence(opening):
    async with opening() as memory:
        store, rules = await shelf(memory)
        await ask_before(memory, rules, weight=0.1)
        assert (await memory.service.reranker.judge("t", store)).questions == 0


async def test_it_can_be_turned_off(opening):
    async with opening(rerank=False) as memory:
        store, rules = await shelf(memory)
        await ask_before(memory, rules)
        assert not (await search(memory, store, NOW.format("zebra"))).by_usage
        assert not hasattr(memory.service, "reranker")


@pytest.mark.parametrize(
    ("questions", "gain", "error", "better"),
    [
        (LEAST_QUESTIONS, 0.1, 0.05, True),
        (LEAST_QUESTIONS - 1, 0.1, 0.05, False),
        (LEAST_QUESTIONS, 0.1, 0.06, False),
        (LEAST_QUESTIONS, 0.0, 0.0, False),
        (LEAST_QUESTIONS, -0.1, 0.01, False),
    ],
)
def test_a_verdict_is_for_usage_only_where_it_is_sure(questions, gain, error, better):
    assert Verdict(questions, gain, error, 0.0).better == better
