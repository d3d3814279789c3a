"""What Ray is told of a service's metrics: gauges as they stand, counters by what they grew."""

from typing import Any

import pytest

from actors.base.telemetry import Telemetry
from cluster import ray_metrics
from cluster.ray_metrics import SHOWN, RayMetrics


class Fake:
    told: list[tuple[str, float, dict[str, str]]] = []  # noqa: RUF012

    def __init__(self, name: str, about: str, tags: tuple[str, ...]) -> None:
        self.name = name
        assert tags == ("service", "replica")
        assert about

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.told.append((self.name, value, tags))

    inc = set


class FakeGauge(Fake):
    pass


class FakeCounter(Fake):
    pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(Fake, "told", found)
    monkeypatch.setattr(ray_metrics, "Gauge", FakeGauge)
    monkeypatch.setattr(ray_metrics, "Counter", FakeCounter)
    return found


def test_ray_hears_of_what_there_is(told: list[Any]) -> None:
    telemetry = Telemetry("gateway", "1")
    answered = telemetry.counter("russet_gateway_requests_total", "Answered.", ("endpoint", "status"))
    shown = RayMetrics(telemetry)
    answered.labels(endpoint="/v1/models", status="200").inc(2)
    answered.labels(endpoint="/v1/models", status="404").inc()
    shown.show()
    shown.show()
    answered.labels(endpoint="/v1/models", status="200").inc(4)
    shown.show()
    tags = {"service": "gateway", "replica": "1"}
    assert told == [("russet_requests", 3, tags), ("russet_requests", 4, tags)]


def test_gauges_are_told_as_they_stand(told: list[Any]) -> None:
    telemetry = Telemetry("scheduler", "tiny-0")
    running = telemetry.gauge("vllm:num_requests_running", "Running.")
    shown = RayMetrics(telemetry)
    for count in (3, 0):
        running.set(count)
        shown.show()
    assert [(name, value) for name, value, _ in told] == [("russet_running", 3), ("russet_running", 0)]


def test_names_are_ray_s_to_take() -> None:
    assert len({each.name for each in SHOWN}) == len(SHOWN)
    for each in SHOWN:
        assert each.name.isidentifier(), "Ray takes no colons"
        assert not each.name.endswith("_total"), "Ray adds it itself"
