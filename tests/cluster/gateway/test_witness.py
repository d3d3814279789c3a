"""The witness log over HTTP: what is asked of memory, what comes back, and who may ask for whose."""

import pytest

from cluster.gateway import api_keys
from cluster.moments import moment_ms
from protos.gen.memory_pb2 import Latency, WitnessEntry

ENTRY = WitnessEntry(
    id="r1", tenant="acme", time_ms=1234, error="Internal: no", latency=Latency(total_ms=5), query_embedding=[1, 2]
)


@pytest.fixture
async def client(world):
    world.memory.entries.append(ENTRY)
    await world.start()
    return world.client(headers={"X-Russet-Tenant": "acme"})


async def test_entries_come_without_vectors_and_with_every_number(client, world):
    reply = (await client.get("/v1/witness?from=7&to=8&errors=true&quality_below=0.5&limit=3&model=m")).json()
    (row,) = reply["data"]
    assert (row["id"], row["time_ms"], row["error"], row["quality"]) == ("r1", 1234, "Internal: no", None)
    assert (row["latency"]["total_ms"], row["latency"]["queue_ms"], row["usage"]["prompt_tokens"]) == (5, 0, 0)
    assert "query_embedding" not in row
    (asked,) = world.memory.witness_asked
    assert (asked.tenant, asked.all_tenants, asked.from_ms, asked.to_ms) == ("acme", False, 7000, 8000)
    assert (asked.errors_only, asked.quality_below, asked.limit, asked.model) == (True, 0.5, 3, "m")
    assert not asked.HasField("slower_than_ms")


async def test_one_entry_and_none(client):
    assert (await client.get("/v1/witness/r1")).json()["id"] == "r1"
    missing = await client.get("/v1/witness/r2")
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "id")


async def test_similar_slow_stats_and_verification(client, world):
    (like,) = (await client.get("/v1/witness/similar?id=r1&limit=2")).json()["data"]
    assert (like["id"], like["similarity"], like["matched"]) == ("r1", 0.5, "error")
    slow = (await client.get("/v1/witness/slow?factor=4")).json()
    assert (slow["entries"], slow["data"][0]["ratio"], slow["data"][0]["median_ms"]) == (9, 4, 2)
    stats = (await client.get("/v1/witness/stats?by=model,tenant")).json()
    (group,) = stats["data"]
    assert (group["model"], group["tenant"], group["entries"], group["mean_quality"]) == ("model", "tenant", 5, None)
    assert group["latency_ms"]["total"] == {"p50": 1, "p90": 2, "p95": 3, "p99": 4}
    verdict = (await client.get("/v1/witness/verify")).json()
    assert verdict["sound"] is False
    assert verdict["broken"] == {"sequence": 3, "id": "r3", "problem": "entry 3 is missing"}
    assert all(asked.tenant == "acme" for asked in world.memory.witness_asked[:-1])


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("colour=red", "colour"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("errors=maybe", "errors"),
        ("quality_below=2", "quality_below"),
        ("slower_than_ms=nan", "slower_than_ms"),
        ("from=yesterday", "from"),
        ("tenant=a&all_tenants=true", "tenant"),
    ],
)
async def test_what_is_not_accepted_is_named(client, query, param):
    refused = await client.get(f"/v1/witness?{query}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_only_a_key_named_as_an_operators_reads_other_tenants(world, tmp_path):
    path = tmp_path / "keys"
    keys = {name: api_keys.create(path, name, role) for name, role in (("ops", "admin"), ("acme", "user"))}
    await world.start(api_keys_file=path)
    clients = {name: world.client(headers={"Authorization": f"Bearer {key}"}) for name, key in keys.items()}
    for query in ("?tenant=other", "?all_tenants=true", "/r1?tenant=ops", "/stats?all_tenants=1", "/verify"):
        refused = await clients["acme"].get(f"/v1/witness{query}")
        assert refused.status_code == 403, query
    assert not world.memory.witness_asked
    assert (await clients["acme"].get("/v1/witness?tenant=acme")).status_code == 200
    assert (await clients["ops"].get("/v1/witness?tenant=other")).status_code == 200
    assert (await clients["ops"].get("/v1/witness?all_tenants=true")).status_code == 200
    assert (await clients["ops"].get("/v1/witness/verify")).status_code == 200
    own, other, everyone = world.memory.witness_asked[:3]
    assert [(each.tenant, each.all_tenants) for each in (own, other)] == [("acme", False), ("other", False)]
    assert everyone.all_tenants


@pytest.mark.parametrize(
    ("text", "moment"),
    [("30m", 998_200_000), ("1h", 996_400_000), ("7d", 395_200_000), ("0", 0), ("12.5", 12_500),
     ("1970-01-01T00:00:01Z", 1000), ("1970-01-01T01:00:01+01:00", 1000), ("9999d", 0)],
)  # fmt: skip
def test_moments(text, moment):
    assert moment_ms(text, "from", now_s=1_000_000) == moment
