"""What many entries say together: aggregates, percentiles, and which of them took unusually long. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from actors.base.errors import InvalidArgument
from protos.gen import memory_pb2

PARTS = ("embedding", "retrieval", "routing", "queue", "prefill", "decode", "total", "ttft", "tpot")
"""Of the latency."""
SHARES = (0.5, 0.9, 0.95, 0.99)
FEWEST = 8
"""Entries of a model from which its median says something."""

KEYS = {
    "model": lambda entry: entry.model,
    "replica": lambda entry: entry.replica_id,
    "tenant": lambda entry: entry.tenant,
    "finish": lambda entry: entry.finish,
}
_FIELDS = tuple(f"{part}_ms" for part in PARTS)


class _Group:
    def __init__(self) -> None:
        self.entries = self.errors = self.prompt_tokens = self.completion_tokens = 0
        self.qualities: list[float] = []
        self.parts: list[list[float]] = []

    def add(self, entry: memory_pb2.WitnessEntry) -> None:
        self.entries += 1
        self.errors += bool(entry.error)
        self.prompt_tokens += entry.usage.prompt_tokens
        self.completion_tokens += entry.usage.completion_tokens
        if entry.HasField("quality"):
            self.qualities.append(entry.quality)
        latency = entry.latency
        self.parts.append([getattr(latency, field) for field in _FIELDS])


class Figures:
    """Takes entries one by one; `by` names what to group by, of KEYS."""

    def __init__(self, by: Sequence[str]) -> None:
        """Raises InvalidArgument for another name, or one that stands twice."""
        if unknown := [name for name in by if name not in KEYS]:
            raise InvalidArgument(f"by {unknown[0][:40]!r}; accepted: {', '.join(KEYS)}", param="by")
        if len(set(by)) < len(by):
            raise InvalidArgument(f"by {', '.join(by)}; accepted: each once", param="by")
        self._keys = [KEYS[name] for name in by]
        self._groups: defaultdict[tuple[str, ...], _Group] = defaultdict(_Group)
        self._first_ms = self._last_ms = 0

    def add(self, entry: memory_pb2.WitnessEntry) -> None:
        """Count one; what administrators did is no request."""
        if entry.action:
            return
        self._first_ms = min(self._first_ms or entry.time_ms, entry.time_ms)
        self._last_ms = max(self._last_ms, entry.time_ms)
        self._groups[tuple(key(entry) for key in self._keys)].add(entry)

    def reply(self) -> memory_pb2.WitnessStatsReply:
        """Of all that were added; the largest group first, equal ones by key."""
        ranked = sorted(self._groups.items(), key=lambda item: (-item[1].entries, item[0]))
        groups = [
            memory_pb2.WitnessGroup(
                key=key,
                entries=group.entries,
                errors=group.errors,
                prompt_tokens=group.prompt_tokens,
                completion_tokens=group.completion_tokens,
                scored=len(group.qualities),
                mean_quality=float(np.mean(group.qualities)) if group.qualities else 0.0,
                latency=percentiles(group.parts),
            )
            for key, group in ranked
        ]
        return memory_pb2.WitnessStatsReply(groups=groups, first_ms=self._first_ms, last_ms=self._last_ms)


def percentiles(rows: Sequence[Sequence[float]]) -> list[memory_pb2.Percentiles]:
    """Of each of PARTS, over rows of one value a part (milliseconds): values that did occur, by nearest rank."""
    ranks = np.quantile(np.array(rows), SHARES, axis=0, method="inverted_cdf")
    return [
        memory_pb2.Percentiles(part=part, p50=p50, p90=p90, p95=p95, p99=p99)
        for part, (p50, p90, p95, p99) in zip(PARTS, ranks.T, strict=True)
    ]


class Spikes(NamedTuple):
    """Entries that took unusually long, and how many were looked at."""

    spikes: list[memory_pb2.SlowEntry]
    entries: int


def spikes(records: Iterable[memory_pb2.WitnessRecord], factor: float, limit: int) -> Spikes:
    """Those that took more than `factor` times the median of their model, largest ratio first, `limit` at most.

    The median is that of the entries of the model that did not fail. It, and not a percentile, is the measure, since
    one in a hundred lies past the 99th percentile on the quietest day. A model with fewer than FEWEST has no spikes.
    """
    by_model: defaultdict[str, list[memory_pb2.WitnessRecord]] = defaultdict(list)
    for each in records:
        by_model[each.entry.model].append(each)
    found = []
    for every in by_model.values():
        totals = [each.entry.latency.total_ms for each in every if not each.entry.error]
        if len(totals) < FEWEST:
            continue
        median, p99 = (float(value) for value in np.quantile(totals, (0.5, 0.99), method="inverted_cdf"))
        found += [
            memory_pb2.SlowEntry(
                record=each, median_ms=median, p99_ms=p99, ratio=each.entry.latency.total_ms / max(median, 1e-3)
            )
            for each in every
            if each.entry.latency.total_ms > factor * median
        ]
    found.sort(key=lambda spike: (-spike.ratio, -spike.record.sequence))
    return Spikes(found[:limit], sum(map(len, by_model.values())))
