"""Experts that a worker keeps on disk: what its configuration asks for, and the metrics of what came of it."""

import tempfile
from pathlib import Path

from actors.base.errors import InvalidArgument
from actors.base.telemetry import Telemetry
from actors.worker.config import EXPERT_BONUS, WorkerConfig
from kernels.decoder import Decoder, ExpertCounts, ExpertMemory


def expert_memory(config: WorkerConfig) -> ExpertMemory | None:
    """Where experts lie and how many of them are in memory; None where all are.

    Raises InvalidArgument for a bonus in deterministic mode, where a row's tokens must not depend on other rows.
    """
    if config.deterministic and config.expert_bonus:
        raise InvalidArgument(
            f"expert_bonus = {config.expert_bonus} with deterministic = true: which experts are in memory depends on "
            "what else runs; 0 is accepted",
            param="expert_bonus",
        )
    if not config.experts_memory_bytes:
        return None
    bonus = config.expert_bonus
    if bonus is None:
        bonus = 0.0 if config.deterministic else EXPERT_BONUS
    # KV's directory is on a disk, as the system's temporary one often is not.
    directory = config.kv_disk_directory or Path(tempfile.gettempdir())
    return ExpertMemory(config.experts_memory_bytes, bonus, directory)


class ExpertMetrics:
    """Counters of a decoder's experts on disk, brought up to date by `observe`."""

    def __init__(self, decoder: Decoder, telemetry: Telemetry) -> None:
        self._decoder = decoder
        self._told = ExpertCounts(*[0] * len(ExpertCounts._fields))
        chosen = telemetry.counter(
            "russet_worker_experts_chosen_total",
            "Experts that tokens chose, in memory or not",
            ("found",),
        )
        paged = telemetry.counter("russet_worker_experts_paged_total", "Experts read and dropped", ("way",))
        self._counters = {
            "hits": chosen.labels(found="hit"),
            "misses": chosen.labels(found="miss"),
            "paged_in": paged.labels(way="in"),
            "foreseen": paged.labels(way="foreseen"),
            "paged_out": paged.labels(way="out"),
            "decisions": telemetry.counter("russet_worker_expert_decisions_total", "Tokens routed, by layer"),
            "bytes_in": telemetry.counter("russet_worker_expert_bytes_total", "Bytes of experts read"),
        }
        self._seconds = telemetry.counter("russet_worker_expert_decision_seconds_total", "Choosing experts")
        self._cached = telemetry.gauge("russet_worker_expert_memory_bytes", "Experts in memory")

    def observe(self) -> None:
        """Count what happened since the last time."""
        now = self._decoder.expert_counts
        if now is None:
            return
        for name, counter in self._counters.items():
            counter.inc(getattr(now, name) - getattr(self._told, name))
        self._seconds.inc((now.decision_ns - self._told.decision_ns) / 1e9)
        self._cached.set(now.cached_bytes)
        self._told = now
