"""The KV memory of every replica, read from the gateway's /metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

SCHEDULER = "scheduler-"
TIERS = ("f16", "q8", "q4", "q2")
POLICIES = ("evict", "quantize", "spill", "reject")
"""In the order in which a scheduler short of memory tries them."""


@dataclass
class Times:
    """Durations as a histogram tells them, seconds."""

    count: float = 0
    total_s: float = 0
    within: dict[float, float] = field(default_factory=dict)
    """Upper bound -> how many were no longer."""

    @property
    def mean_s(self) -> float:
        """0 where there were none."""
        return self.total_s / self.count if self.count else 0.0

    def bound_s(self, share: float) -> float:
        """The smallest bound that `share` of them (0..1) kept to; infinite where they exceed the last."""
        wanted = share * self.count
        return next((bound for bound, count in sorted(self.within.items()) if count >= wanted), math.inf)


@dataclass
class Pool:
    """One replica's KV memory. Bytes and tokens as they stand; counts since the replica started."""

    replica: str
    budget_bytes: float = 0
    """0 where the replica says of no budget."""
    live_bytes: dict[str, float] = field(default_factory=dict)
    """Format -> bytes that running requests use."""
    cached_bytes: dict[str, float] = field(default_factory=dict)
    """Format -> bytes that only the prefix cache keeps."""
    kept_tokens: float = 0
    """On disk."""
    queried_tokens: float = 0
    found_tokens: float = 0
    evicted_pages: float = 0
    demoted_tokens: dict[str, float] = field(default_factory=dict)
    """Format they went to -> tokens."""
    preemptions: float = 0
    preempted: dict[str, float] = field(default_factory=dict)
    """swap or recompute -> rows."""
    restored_tokens: float = 0
    restores: Times = field(default_factory=Times)
    pressure: dict[str, float] = field(default_factory=dict)
    """Policy -> how often it was applied."""

    @property
    def used_bytes(self) -> float:
        """Live and cached."""
        return sum(self.live_bytes.values()) + sum(self.cached_bytes.values())

    @property
    def hit_ratio(self) -> float | None:
        """Share of the prompt tokens whose KV was there, 0..1; None before the first request."""
        return self.found_tokens / self.queried_tokens if self.queried_tokens else None


def pools(metrics: str) -> list[Pool]:
    """The pools of every replica in the text of /metrics, by name."""
    found: dict[str, Pool] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            service = sample.labels.get("service", "")
            if service.startswith(SCHEDULER):
                name = service.removeprefix(SCHEDULER)
                _read(found.setdefault(name, Pool(name)), sample.name, sample.labels, sample.value)
    return [found[name] for name in sorted(found)]


_NUMBERS = {
    "russet_kv_budget_bytes": "budget_bytes",
    "russet_kv_kept_tokens": "kept_tokens",
    "vllm:prefix_cache_queries_total": "queried_tokens",
    "vllm:prefix_cache_hits_total": "found_tokens",
    "russet_prefix_cache_evictions_total": "evicted_pages",
    "vllm:num_preemptions_total": "preemptions",
    "russet_kv_restored_tokens_total": "restored_tokens",
}
"""Metric -> the field of Pool that it is."""
_TABLES = {
    "russet_kv_demoted_tokens_total": ("demoted_tokens", "tier"),
    "russet_kv_preemptions_total": ("preempted", "kind"),
    "russet_kv_pressure_total": ("pressure", "policy"),
}
"""Metric -> the field of Pool that holds it by the value of a label."""


def _read(pool: Pool, name: str, labels: Mapping[str, str], value: float) -> None:
    """Take one sample; those that say nothing of KV are passed over."""
    if name in _NUMBERS:
        setattr(pool, _NUMBERS[name], value)
    elif name in _TABLES:
        where, label = _TABLES[name]
        getattr(pool, where)[labels[label]] = value
    elif name == "russet_kv_bytes":
        (pool.live_bytes if labels["state"] == "live" else pool.cached_bytes)[labels["tier"]] = value
    elif name == "russet_kv_restore_seconds_count":
        pool.restores.count = value
    elif name == "russet_kv_restore_seconds_sum":
        pool.restores.total_s = value
    elif name == "russet_kv_restore_seconds_bucket":
        pool.restores.within[float(labels["le"])] = value


def applied(pool: Pool, before: Pool | None) -> list[str]:
    """Policies that shortage of memory called for since `before`, in the order in which they are tried."""
    earlier = before.pressure if before else {}
    return [policy for policy in POLICIES if pool.pressure.get(policy, 0) > earlier.get(policy, 0)]
