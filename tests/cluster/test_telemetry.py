"""Where spans and OpenTelemetry metrics go, and that they go nowhere unless asked for."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.base.errors import InvalidArgument
from cluster import telemetry
from cluster.local import LocalCluster
from cluster.telemetry import TelemetryConfig
from tests.conftest import settings


async def test_nothing_is_exported_unless_asked_for(home: Path) -> None:
    config = settings(home)
    assert config.telemetry.exporter == "none"
    silent = telemetry.telemetry(config.telemetry, "router", "0")
    assert not silent.tracing
    with silent.span("nothing") as span:
        assert not span.is_recording()


async def test_the_console_shows_spans(capsys: pytest.CaptureFixture[str]) -> None:
    shown = telemetry.telemetry(TelemetryConfig(exporter="console"), "router", "0")
    with shown.span("router.route", {"russet.replica": "r0"}):
        pass
    await asyncio.to_thread(shown.shutdown)
    captured = capsys.readouterr()
    assert '"name": "router.route"' in captured.err
    assert captured.out == ""


async def test_a_missing_exporter_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(telemetry, "import_module", absent)
    with pytest.raises(InvalidArgument, match="pip install opentelemetry-exporter-otlp-proto-grpc"):
        await LocalCluster(settings(home, telemetry__exporter="otlp")).start()
    with pytest.raises(InvalidArgument, match=r"telemetry\.otlp_endpoint"):
        settings(home, telemetry__otlp_endpoint="collector:4317")
