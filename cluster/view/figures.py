"""What the view shows of one service, read from its metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families


@dataclass
class Figures:
    """One service's. Gauges as they stand, counts since its process began; 0 where its role has none."""

    running: float = 0
    waiting: float = 0
    generated_tokens: float = 0
    prompt_tokens: float = 0
    queried_tokens: float = 0
    """Of prompts, looked up in the prefix cache."""
    found_tokens: float = 0
    kv_live_bytes: float = 0
    kv_cached_bytes: float = 0
    kv_budget_bytes: float = 0
    first_tokens: dict[float, float] = field(default_factory=dict)
    """Seconds (upper bound, infinity the last) -> requests whose first token came within them."""
    worker_losses: float = 0
    requests: float = 0
    """Of clients, to /v1, whatever became of them."""
    failed: float = 0
    """Those among them that were answered with 5xx."""
    refused: float = 0
    """Those among them that were answered with 4xx."""
    failovers: float = 0
    hot_outages: float = 0
    resident_bytes: float = 0
    """Memory of the service's process, which it may share with others."""
    node_memory_bytes: float = 0
    node_available_bytes: float = 0


_NUMBERS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:generation_tokens_total": "generated_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_queries_total": "queried_tokens",
    "vllm:prefix_cache_hits_total": "found_tokens",
    "russet_kv_budget_bytes": "kv_budget_bytes",
    "russet_scheduler_worker_losses_total": "worker_losses",
    "russet_gateway_failovers_total": "failovers",
    "russet_hot_outages_total": "hot_outages",
    "russet_process_resident_bytes": "resident_bytes",
}
"""Metric -> the field of Figures that it is."""
_FIRST_TOKEN, _KV, _REQUESTS, _NODE = (
    "vllm:time_to_first_token_seconds_bucket",
    "russet_kv_bytes",
    "russet_gateway_requests_total",
    "russet_node_memory_bytes",
)
_WANTED = tuple(name.encode() for name in (*_NUMBERS, _FIRST_TOKEN, _KV, _REQUESTS, _NODE))


def figures_of(metrics: bytes) -> Figures:
    """Read them from a service's metrics in Prometheus's text format; what is of no interest here is passed over."""
    wanted = b"\n".join(line for line in metrics.splitlines() if line.startswith(_WANTED))
    figures = Figures()
    for family in text_string_to_metric_families(wanted.decode() + "\n"):
        for sample in family.samples:
            _take(figures, sample.name, sample.labels, sample.value)
    return figures


def _take(figures: Figures, name: str, labels: Mapping[str, str], value: float) -> None:
    if name in _NUMBERS:
        setattr(figures, _NUMBERS[name], value)
    elif name == _FIRST_TOKEN:
        figures.first_tokens[float(labels["le"])] = value
    elif name == _KV:
        if labels["state"] == "live":
            figures.kv_live_bytes += value
        else:
            figures.kv_cached_bytes += value
    elif name == _NODE:
        if labels["state"] == "total":
            figures.node_memory_bytes = value
        else:
            figures.node_available_bytes = value
    elif name == _REQUESTS and labels["endpoint"].startswith("/v1/"):
        figures.requests += value
        figures.failed += value if labels["status"].startswith("5") else 0
        figures.refused += value if labels["status"].startswith("4") else 0


def grown(now: float, before: float) -> float:
    """What a count grew by; a process that began anew counts from 0."""
    return now - before if now >= before else now


def quantile_s(now: Mapping[float, float], before: Mapping[float, float], share: float) -> float | None:
    """The time within which `share` (0..1) of what a histogram counted in between stayed, as Prometheus interpolates.

    None where it counted nothing; the last finite bound where they exceeded it.
    """
    bounds = sorted(now)
    counts = [grown(now[bound], before.get(bound, 0)) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    wanted, low_s, below = share * counts[-1], 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= wanted:
            if math.isinf(bound):
                return low_s
            return low_s + (bound - low_s) * ((wanted - below) / (count - below) if count > below else 1)
        low_s, below = bound, count
    return low_s
