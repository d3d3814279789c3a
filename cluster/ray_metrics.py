"""A handful of a service's metrics in Ray's own: its dashboard and its metrics port then show them beside Ray's."""

from typing import NamedTuple

from prometheus_client import CollectorRegistry
from ray.util.metrics import Counter, Gauge

from actors.base.telemetry import Telemetry


class Shown(NamedTuple):
    """One of Ray's metrics (its name there begins with ray_), and the sample of ours that it shows, over its labels."""

    name: str
    ours: str
    about: str

    @property
    def counts(self) -> bool:
        """Whether it only grows."""
        return self.ours.endswith("_total")


SHOWN = (
    Shown("russet_running", "vllm:num_requests_running", "Requests in the batch"),
    Shown("russet_waiting", "vllm:num_requests_waiting", "Requests that wait for pages or a row"),
    Shown("russet_kv_usage", "vllm:kv_cache_usage_perc", "Share of the KV pages in use, 0 to 1"),
    Shown("russet_generated_tokens", "vllm:generation_tokens_total", "Tokens sent to clients"),
    Shown("russet_worker_rows", "russet_worker_rows", "Rows of the worker's newest plan"),
    Shown("russet_requests", "russet_gateway_requests_total", "HTTP requests answered"),
    Shown("russet_failovers", "russet_gateway_failovers_total", "Streams that went on at another replica"),
    Shown("russet_decisions", "russet_router_decisions_total", "Decisions of the router"),
    Shown("russet_witness_written", "russet_witness_written_total", "Witness entries written"),
    Shown("russet_trajectories", "russet_learner_trajectories_total", "Trajectories recorded"),
    Shown("russet_resident_bytes", "russet_process_resident_bytes", "Memory of the service's process"),
)


def values_of(registry: CollectorRegistry) -> dict[str, float]:
    """Those of SHOWN that a registry has, by their names in Ray: the sum over a metric's labels."""
    names = {each.ours: each.name for each in SHOWN}
    found: dict[str, float] = {}
    for family in registry.collect():
        for sample in family.samples:
            if (name := names.get(sample.name)) is not None:
                found[name] = found.get(name, 0.0) + sample.value
    return found


class RayMetrics:
    """Shows one service's in Ray, from within one of its actors; `show` is called now and then."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._registry = telemetry.registry
        self._tags = {"service": telemetry.service, "replica": telemetry.replica}
        self._told: dict[str, float] = {}
        self._made: dict[str, Counter | Gauge] = {}

    def show(self) -> None:
        """Tell Ray what has become of them."""
        values = values_of(self._registry)
        for each in SHOWN:
            if (value := values.get(each.name)) is None:
                continue
            metric = self._made.get(each.name)
            if metric is None:
                kind = Counter if each.counts else Gauge
                metric = self._made[each.name] = kind(each.name, each.about, ("service", "replica"))
            if isinstance(metric, Gauge):
                metric.set(value, self._tags)
            elif (grown := value - self._told.get(each.name, 0.0)) > 0:
                metric.inc(grown, self._tags)
                self._told[each.name] = value
