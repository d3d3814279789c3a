"""What is made of looks: rates, percentiles, nodes, and what is amiss in words."""

import math
from typing import Any

import pytest

from cluster.view.figures import Figures
from cluster.view.look import Look, Service
from cluster.view.status import status
from cluster.view.watch import Watch
from protos.gen import router_pb2, scheduler_pb2

NODES = {"tiny-0": "10.0.0.1", "tiny-1": "10.0.0.2"}


def service(name: str, node: str = "10.0.0.1", problem: str = "", **figures: Any) -> Service:
    role, _, replica = name.partition("-")
    return Service(name, role, replica or "0", node, sum(name.encode()), 1e9, "1", problem, Figures(**figures))


def at(seconds: float, tokens: float, *changed: Service, without: str = "") -> Look:
    """A fleet whose two schedulers have sent so many tokens each."""
    schedulers = [
        service(
            f"scheduler-{name}",
            node,
            generated_tokens=tokens,
            running=2,
            waiting=1,
            kv_live_bytes=100,
            kv_cached_bytes=50,
            kv_budget_bytes=1000,
            first_tokens={0.1: tokens / 10, 1.0: tokens / 10, math.inf: tokens / 10},
            resident_bytes=5e8,
            node_memory_bytes=16e9,
            node_available_bytes=4e9,
        )
        for name, node in NODES.items()
    ]
    workers = [service(f"worker-{name}", node) for name, node in NODES.items()]
    others = [service("gateway-0", requests=tokens / 10, refused=tokens / 100), service("router")]
    every = [*schedulers, *workers, *others, service("memory"), service("learner"), *changed]
    return Look(seconds, {each.name: each for each in every if each.name != without})


def table(**states: str) -> router_pb2.ListReplicasReply:
    rows = []
    for name, node in NODES.items():
        state = states.get(name.replace("-", "_"), "ready")
        load = scheduler_pb2.ReplicaLoad(ready=state != "starting", draining=state == "draining", running_limit=64)
        told = router_pb2.HeartbeatRequest(replica_id=name, node=node, model="tiny", load=load)
        rows.append(router_pb2.Replica(state=told, available=state == "ready"))
    return router_pb2.ListReplicasReply(replicas=rows)


async def nobody() -> dict[str, list[str]]:
    return {}


def watched(*looks: Look) -> Watch:
    watch = Watch(nobody)
    watch.ring.extend(looks)
    watch.newest = looks[-1]
    return watch


def test_rates_are_those_of_the_last_seconds() -> None:
    told = status(watched(at(0, 1000), at(50, 1500), at(60, 1700)), table())
    assert told["state"] == "ok"
    assert told["degraded"] == []
    totals = told["totals"]
    assert totals["tokens_per_s"] == 40, "of two replicas, over the last ten seconds"
    assert totals["requests_per_s"] == 2
    assert (totals["running"], totals["waiting"]) == (4, 2)
    assert totals["refused_last_minute"] == 7
    assert totals["ttft_ms"] == {"p50": 50, "p95": 95}
    assert [(row["id"], row["tokens_per_s"], row["state"]) for row in told["replicas"]] == [
        ("tiny-0", 20, "ready"),
        ("tiny-1", 20, "ready"),
    ]
    assert told["replicas"][0]["kv"] == {"live_bytes": 100, "cached_bytes": 50, "budget_bytes": 1000}
    assert told["models"] == [
        {"id": "tiny", "replicas": 2, "ready": 2, "running": 4, "waiting": 2, "tokens_per_s": 40.0}
    ]
    assert [(row["node"], row["replicas"], row["services"]) for row in told["nodes"]] == [
        ("10.0.0.1", 1, 6),
        ("10.0.0.2", 1, 2),
    ]
    assert told["nodes"][1]["resident_bytes"] == 5e8
    assert [(point["age_s"], point["tokens_per_s"]) for point in told["history"]] == [(10, 20), (0, 40)]
    assert [each["role"] for each in told["services"][:2]] == ["gateway", "router"]


def test_a_restarted_scheduler_makes_no_leap() -> None:
    told = status(watched(at(0, 1000), at(10, 50)), table())
    assert told["totals"]["tokens_per_s"] == 10


AWAY = "no answer within 1 s"


@pytest.mark.parametrize(
    ("name", "what", "means"),
    [
        ("router", "router", "least loaded"),
        ("memory", "memory", "Sessions"),
        ("learner", "learner", "nothing is learned"),
        ("controller", "controller", "lost nodes are not replaced"),
        ("worker-tiny-1", "replica tiny-1", "worker does not answer"),
        ("scheduler-tiny-1", "replica tiny-1", "scheduler does not answer"),
        ("gateway-1", "gateway 1", "others take its clients"),
    ],
)
def test_what_is_away_is_said_in_words(name: str, what: str, means: str) -> None:
    told = status(watched(at(0, 0), at(10, 0, service(name, problem=AWAY))), table())
    assert told["state"] == "degraded"
    assert [each["what"] for each in told["degraded"]] == [what]
    assert means in told["degraded"][0]["means"]
    assert next(each for each in told["services"] if each["name"] == name)["problem"] == AWAY
    assert [row["away"] for row in told["nodes"]] == [[name], []]


def test_one_that_was_stopped_is_away_too() -> None:
    told = status(watched(at(0, 0, without="learner"), at(10, 0, without="learner")), table())
    assert [each["what"] for each in told["degraded"]] == ["learner"]


def test_a_model_that_nothing_serves_is_down() -> None:
    told = status(watched(at(0, 0)), table(tiny_0="draining", tiny_1="starting"))
    assert told["state"] == "down"
    assert [each["what"] for each in told["degraded"]] == ["tiny", "replica tiny-0", "replica tiny-1"]
    assert [row["state"] for row in told["replicas"]] == ["draining", "starting"]
    assert told["models"][0]["ready"] == 0


def test_nothing_at_all_is_said() -> None:
    told = status(watched(Look(0, {})), router_pb2.ListReplicasReply())
    assert (told["state"], told["nodes"], told["replicas"]) == ("down", [], [])
    assert told["degraded"][0]["what"] == "models"


def test_an_outage_of_the_hot_tier_is_one_while_it_lasts() -> None:
    down, later = service("memory", hot_outages=3), service("memory", hot_outages=3)
    first = watched(at(0, 0), at(10, 0, down))
    assert [each["what"] for each in status(first, table())["degraded"]] == ["hot tier"]
    assert status(watched(at(0, 0), at(10, 0, down), at(80, 0, later)), table())["degraded"] == []
