"""Answers scored on their way to the witness log, through the whole system: different answers, different scores."""

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.base.channel import connect
from cluster.local import LocalCluster
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

pytestmark = pytest.mark.asyncio(loop_scope="module")
DIMENSIONS = ("schema", "coherence", "diversity", "temporal", "uniqueness", "total")


async def ask(local: LocalCluster, client: httpx.AsyncClient, content: str, **more: Any) -> dict[str, Any]:
    """An answer, once it is recorded."""
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 60} | more
    answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
    records = local.service("gateway-0").service._records
    await records.flush()
    await records._spool.flush()
    return answer


async def sums(client: httpx.AsyncClient) -> dict[str, float]:
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    (family,) = (family for family in families if family.name == "russet_answer_quality")
    return {each.labels["dimension"]: each.value for each in family.samples if each.name.endswith("_sum")}


async def test_different_answers_have_different_scores(local: LocalCluster) -> None:
    async with httpx.AsyncClient(base_url=local.http, timeout=120, headers={"x-russet-tenant": "scored"}) as client:
        told = await ask(local, client, "Why is the sky blue? Explain in three sentences.")
        again = await ask(local, client, "Why is the sky blue? Explain in three sentences.")
        looping = await ask(local, client, "Say hello.", min_tokens=60, logit_bias={"28": 100})
        object_ = {
            "type": "json_schema",
            "json_schema": {"name": "o", "schema": {"type": "object", "minProperties": 9}},
        }
        cut = await ask(local, client, "Write a JSON object.", response_format=object_, max_tokens=8)
        memory = connect(local.directory.find("memory"))
        witness = local.service("memory").service.witness
        await witness.flush()
        found = await MemoryStub(memory).QueryWitness(memory_pb2.QueryWitnessRequest(tenant="scored"))
        await memory.close()
        entries = {record.entry.id: record.entry for record in found.records}
        assert len(entries) == 4
        observed = await sums(client)
    assert told["choices"][0]["message"]["content"] == again["choices"][0]["message"]["content"]
    first, second, loop, broken = (entries[answer["id"]].scores for answer in (told, again, looping, cut))
    assert first.coherence > 0.5
    assert first.uniqueness == first.schema == 1
    assert second.uniqueness == 0, "the same answer again"
    assert (second.coherence, second.diversity) == (first.coherence, first.diversity)
    assert loop.diversity < first.diversity / 2
    assert broken.schema == 0
    assert all(entry.quality == entry.scores.total for entry in entries.values())
    assert len({round(entry.quality, 4) for entry in entries.values()}) == 4
    for dimension in DIMENSIONS:
        every = sum(getattr(entry.scores, dimension) for entry in entries.values())
        assert observed[dimension] == pytest.approx(every, rel=1e-5), dimension
