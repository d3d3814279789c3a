"""Where spans and OpenTelemetry metrics go (nowhere, to the terminal, or to a collector over OTLP); how logs look.

Prometheus's metrics (/metrics) do not depend on this.
"""

import sys
from importlib import import_module
from typing import Any, Literal

from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from pydantic import BaseModel, ConfigDict, Field

from actors.base.errors import InvalidArgument
from actors.base.telemetry import Telemetry
from cluster.logs import Form, as_asked

EXPORT_TIMEOUT_S = 1
"""Retries included: every service exports once more as it stops, and a collector that is away must not hold it up."""
OTLP_PACKAGE = "opentelemetry-exporter-otlp-proto-grpc"


class TelemetryConfig(BaseModel):
    """What is done with traces and with the gen_ai.* metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exporter: Literal["none", "console", "otlp"] = Field(
        default="none",
        description="Where spans and OpenTelemetry metrics go: nowhere, as JSON to stderr for trying out, or to "
        f"otlp_endpoint (needs the package {OTLP_PACKAGE})",
    )
    otlp_endpoint: str = Field(
        default="http://127.0.0.1:4317",
        pattern=r"^https?://[^/\s]+$",
        description="OpenTelemetry collector that takes OTLP over gRPC; https:// uses TLS",
    )
    logs: Form = Field(
        default="text",
        description="Log lines as text, or as JSON objects with the request's id and trace",
    )
    metrics_interval_s: float = Field(
        default=60, ge=1, le=3600, description="Seconds between two exports of OpenTelemetry metrics"
    )


def telemetry(config: TelemetryConfig, service: str, replica: str) -> Telemetry:
    """A service's telemetry with the exporters that `config` asks for; this process's log lines take its form.

    Raises InvalidArgument where otlp is asked for and its package is not installed.
    """
    as_asked(config.logs)
    return Telemetry(service, replica, *exporters(config))


def exporters(config: TelemetryConfig) -> tuple[list[SpanProcessor], list[MetricReader]]:
    """Span processors and metric readers, new ones for every service."""
    interval_ms = config.metrics_interval_s * 1e3
    match config.exporter:
        case "none":
            return [], []
        case "console":
            metrics = PeriodicExportingMetricReader(ConsoleMetricExporter(out=sys.stderr), interval_ms)
            return [SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr))], [metrics]
        case "otlp":
            insecure = config.otlp_endpoint.startswith("http://")
            options = {"endpoint": config.otlp_endpoint, "insecure": insecure, "timeout": EXPORT_TIMEOUT_S}
            spans = _otlp("trace_exporter").OTLPSpanExporter(**options)
            metrics = PeriodicExportingMetricReader(_otlp("metric_exporter").OTLPMetricExporter(**options), interval_ms)
            return [BatchSpanProcessor(spans)], [metrics]


def _otlp(module: str) -> Any:
    try:
        return import_module(f"opentelemetry.exporter.otlp.proto.grpc.{module}")
    except ImportError as missing:
        raise InvalidArgument(
            f"telemetry.exporter = 'otlp': the package {OTLP_PACKAGE} is not installed ({missing}); "
            f"`pip install {OTLP_PACKAGE}`, or set telemetry.exporter to 'none' or 'console'",
            param="telemetry.exporter",
        ) from missing
