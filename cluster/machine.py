"""What a process and its machine use: memory and processor time, measured when somebody asks."""

from collections.abc import Iterator

import psutil
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class MachineMetrics(Collector):
    """A collector for a service's registry. Services that share a process tell the same of it."""

    def __init__(self, node: str) -> None:
        """`node`: its address, as its label has it."""
        self._node = node
        self._process = psutil.Process()

    def describe(self) -> list[Metric]:
        """None to be checked for: they are no others' names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they stand."""
        with self._process.oneshot():
            resident, times = self._process.memory_info().rss, self._process.cpu_times()
        memory = psutil.virtual_memory()
        yield GaugeMetricFamily("russet_process_resident_bytes", "Memory of the service's process.", resident)
        cpu = CounterMetricFamily("russet_process_cpu_seconds", "Processor time of the service's process.")
        cpu.add_metric([], times.user + times.system)
        yield cpu
        node = GaugeMetricFamily("russet_node_memory_bytes", "The machine's memory.", labels=("node", "state"))
        node.add_metric([self._node, "total"], memory.total)
        node.add_metric([self._node, "available"], memory.available)
        yield node
