"""Routing without a router, and the hashes that make prefixes recognisable."""

import pytest

from actors.base.errors import Unavailable
from cluster.gateway.routes import MAX_HASHES, prefix_hashes, route_by_table
from protos.gen import router_pb2, scheduler_pb2


def replica(name, model="m", running=0, available=True):
    load = scheduler_pb2.ReplicaLoad(running=running)
    state = router_pb2.HeartbeatRequest(replica_id=name, model=model, load=load, addresses=[f"inproc:{name}"])
    return router_pb2.Replica(state=state, available=available)


def test_equal_prefixes_have_equal_hashes_up_to_the_page_that_differs():
    one, other = prefix_hashes(range(64)), prefix_hashes([*range(40), 999, *range(41, 64)])
    assert len(one) == 4
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert one[3] != other[3]


def test_only_whole_pages_count_and_not_too_many():
    assert prefix_hashes(range(15)) == []
    assert len(prefix_hashes(range(31))) == 1
    assert len(prefix_hashes([1] * 100_000)) == MAX_HASHES


def test_the_table_gives_the_least_loaded_available_replica_of_the_model():
    replicas = [
        replica("a", running=3), replica("b", running=1), replica("c", available=False), replica("d", model="n"),
    ]  # fmt: skip
    table = router_pb2.ListReplicasReply(replicas=replicas, default_model="m")
    for model in ("m", "", "auto"):
        reply = route_by_table(table, router_pb2.RouteRequest(model=model), Unavailable("away"))
        assert reply.model == "m"
        assert [candidate.replica_id for candidate in reply.candidates] == ["b", "a"]
    excluded = route_by_table(table, router_pb2.RouteRequest(model="m", exclude=["b"]), Unavailable("away"))
    assert [candidate.replica_id for candidate in excluded.candidates] == ["a"]


def test_a_table_without_the_model_passes_the_reason_on():
    with pytest.raises(Unavailable, match="away"):
        route_by_table(router_pb2.ListReplicasReply(), router_pb2.RouteRequest(model="m"), Unavailable("away"))
