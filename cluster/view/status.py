"""GET /status.json: what every watcher shows, be it the page, `russet top` or a program of one's own."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from cluster.view.degraded import degraded
from cluster.view.figures import quantile_s
from cluster.view.look import Look, Service
from cluster.view.watch import MINUTE_S, RATE_S, Watch, history, rate, total_growth, total_rate
from protos.gen import router_pb2

Row = dict[str, Any]


def status(watch: Watch, table: router_pb2.ListReplicasReply) -> Row:
    """The newest look of `watch`, with rates. `table`: the router's replicas as last read."""
    now, lately, minute = watch.newest, watch.since(RATE_S), watch.since(MINUTE_S)
    known = {replica.state.replica_id: replica for replica in table.replicas}
    names = known.keys() | {each.replica for each in now.services.values() if each.role in ("scheduler", "worker")}
    replicas = [_replica(name, known.get(name), now, lately, minute) for name in sorted(names)]
    missing = degraded(now, minute, [(row["id"], row["model"], row["state"]) for row in replicas])
    gateways = [each.figures for each in now.of("gateway")]
    buckets = [_first_tokens(now, minute, row["id"]) for row in replicas]
    ready = [row for row in replicas if row["state"] == "ready"]
    return {
        "object": "status",
        "time": round(time.time(), 3),
        "version": version("russet"),
        "state": "down" if not ready else "degraded" if missing else "ok",
        "degraded": [each._asdict() for each in missing],
        "totals": {
            "tokens_per_s": round(total_rate(now, lately, "generated_tokens"), 2),
            "prompt_tokens_per_s": round(total_rate(now, lately, "prompt_tokens"), 2),
            "requests_per_s": round(total_rate(now, lately, "requests"), 3),
            "running": sum(row["running"] for row in replicas),
            "waiting": sum(row["waiting"] for row in replicas),
            "ttft_ms": _percentiles([_sum(pair[0] for pair in buckets), _sum(pair[1] for pair in buckets)]),
            "failed_last_minute": total_growth(now, minute, "failed"),
            "refused_last_minute": total_growth(now, minute, "refused"),
            "failed": int(sum(each.failed for each in gateways)),
            "failovers": int(sum(each.failovers for each in gateways)),
        },
        "history": [
            dict(zip(("age_s", "tokens_per_s", "running", "waiting"), (round(each, 2) for each in point), strict=True))
            for point in history(watch.ring)
        ],
        "nodes": _nodes(now, replicas),
        "models": _models(replicas),
        "replicas": replicas,
        "services": [_service(each) for each in sorted(now.services.values(), key=_by_role)],
    }


def _replica(name: str, told: router_pb2.Replica | None, now: Look, lately: Look, minute: Look) -> Row:
    """A replica by its scheduler's figures; what the router's table alone knows, by that."""
    service = f"scheduler-{name}"
    scheduler, worker = now.services.get(service), now.services.get(f"worker-{name}")
    figures = scheduler.figures if scheduler else None
    state = told.state if told else router_pb2.HeartbeatRequest()
    load = state.load
    if figures is None:
        running, waiting, budget = load.running, load.waiting, load.kv_bytes
        live, cached = (sum(getattr(tier, part) for tier in load.kv_tiers) for part in ("live_bytes", "cached_bytes"))
    else:
        running, waiting, budget = figures.running, figures.waiting, figures.kv_budget_bytes
        live, cached = figures.kv_live_bytes, figures.kv_cached_bytes
    found = figures.found_tokens / figures.queried_tokens if figures and figures.queried_tokens else None
    return {
        "id": name,
        "model": state.model or name.rpartition("-")[0],
        "node": state.node or (scheduler.node if scheduler else ""),
        "state": _state(told, scheduler, worker),
        "running": int(running),
        "running_limit": load.running_limit,
        "waiting": int(waiting),
        "queue_limit": load.queue_limit,
        "tokens_per_s": round(rate(now, lately, service, "generated_tokens"), 2),
        "prompt_tokens_per_s": round(rate(now, lately, service, "prompt_tokens"), 2),
        "ttft_ms": _percentiles(_first_tokens(now, minute, name)),
        "kv": {"live_bytes": int(live), "cached_bytes": int(cached), "budget_bytes": int(budget)},
        "prefix_hit_ratio": None if found is None else round(found, 4),
        "worker_losses": int(figures.worker_losses) if figures else 0,
    }


def _state(told: router_pb2.Replica | None, scheduler: Service | None, worker: Service | None) -> str:
    if scheduler is not None and scheduler.problem:
        return "away"
    if worker is not None and worker.problem:
        return "worker away"
    if told is None or not told.state.load.ready:
        return "starting"
    if told.state.load.draining:
        return "draining"
    return "ready" if told.available else "away"


def _first_tokens(now: Look, before: Look, replica: str) -> tuple[Mapping[float, float], Mapping[float, float]]:
    new, old = (look.services.get(f"scheduler-{replica}") for look in (now, before))
    return new.figures.first_tokens if new else {}, old.figures.first_tokens if old else {}


def _sum(histograms: Any) -> Mapping[float, float]:
    total: dict[float, float] = defaultdict(float)
    for buckets in histograms:
        for bound, count in buckets.items():
            total[bound] += count
    return total


def _percentiles(buckets: Sequence[Mapping[float, float]]) -> Row:
    """p50 and p95 of the last minute, milliseconds; None where no first token came."""
    now, before = buckets
    found = {name: quantile_s(now, before, share) for name, share in (("p50", 0.5), ("p95", 0.95))}
    return {name: None if seconds is None else round(seconds * 1e3, 1) for name, seconds in found.items()}


def _nodes(now: Look, replicas: Sequence[Row]) -> list[Row]:
    """Each node with what runs there. Processes that hold several services count once."""
    rows = []
    names = {each.node for each in now.services.values()} | {row["node"] for row in replicas}
    for node in sorted(names - {""}):
        there = [each for each in now.services.values() if each.node == node]
        answered = [each for each in there if not each.problem]
        resident = {each.pid: each.figures.resident_bytes for each in answered}
        newest = answered[0].figures if answered else None
        rows.append(
            {
                "node": node,
                "services": len(there),
                "away": sorted(each.name for each in there if each.problem),
                "replicas": sum(row["node"] == node for row in replicas),
                "running": sum(row["running"] for row in replicas if row["node"] == node),
                "tokens_per_s": round(sum(row["tokens_per_s"] for row in replicas if row["node"] == node), 2),
                "resident_bytes": int(sum(resident.values())),
                "memory_bytes": int(newest.node_memory_bytes) if newest else 0,
                "available_bytes": int(newest.node_available_bytes) if newest else 0,
            }
        )
    return rows


def _models(replicas: Sequence[Row]) -> list[Row]:
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in replicas:
        by_model[row["model"]].append(row)
    return [
        {
            "id": model,
            "replicas": len(rows),
            "ready": sum(row["state"] == "ready" for row in rows),
            "running": sum(row["running"] for row in rows),
            "waiting": sum(row["waiting"] for row in rows),
            "tokens_per_s": round(sum(row["tokens_per_s"] for row in rows), 2),
        }
        for model, rows in sorted(by_model.items())
    ]


_ROLES = ("gateway", "router", "controller", "scheduler", "worker", "memory", "learner")


def _by_role(service: Service) -> tuple[int, str]:
    return _ROLES.index(service.role) if service.role in _ROLES else len(_ROLES), service.replica


def _service(service: Service) -> Row:
    return {
        "name": service.name,
        "role": service.role,
        "replica": service.replica,
        "node": service.node,
        "pid": service.pid or None,
        "started": service.started_s or None,
        "version": service.version or None,
        "state": "no answer" if service.problem else "serving",
        "problem": service.problem or None,
    }
