"""Metrics and spans of one process's role.

Metrics live in a registry of their own (several roles may share a process), rendered in Prometheus's text format:
prometheus_client allows the `vllm:*` names that existing dashboards read, which OpenTelemetry's instruments do not.
Spans and the gen_ai.* metrics are OpenTelemetry's; spans travel between processes as W3C traceparent.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Meter, NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_PROPAGATOR = TraceContextTextMapPropagator()
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
Metric = TypeVar("Metric", Counter, Gauge, Histogram)
REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="")
"""Id of the request in whose course the running code runs, for log lines; empty where it runs for none."""
REQUEST_KEY = "russet-request"
"""Its name in calls' metadata."""
# Where nothing exports: swallows attributes, and leaves the caller's span the current one, so that it travels on.
_NO_SPAN = contextlib.nullcontext(trace.INVALID_SPAN)


class Telemetry:
    """Metrics and tracer of `service` (router, scheduler, ...), of which this is the one named `replica`.

    `spans` and `readers` are OpenTelemetry processors and readers that export; with none, spans cost almost nothing.
    """

    def __init__(
        self,
        service: str,
        replica: str = "0",
        spans: Sequence[SpanProcessor] = (),
        readers: Sequence[MetricReader] = (),
    ) -> None:
        self.service = service
        self.replica = replica
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        resource = Resource.create({"service.name": f"russet-{service}", "service.instance.id": replica})
        self._tracer: trace.Tracer | None = None
        self._providers: list[TracerProvider | MeterProvider] = []
        if spans:
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            for processor in spans:
                provider.add_span_processor(processor)
            self._tracer = provider.get_tracer("russet")
            self._providers.append(provider)
        self.meter: Meter = NoOpMeter("russet")
        if readers:
            meters = MeterProvider(readers, resource, shutdown_on_exit=False)
            self.meter = meters.get_meter("russet")
            self._providers.append(meters)

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """A count that only grows; the same one for the same name."""
        return self._metric(Counter, name, documentation, labels)

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """A value as it stands."""
        return self._metric(Gauge, name, documentation, labels)

    def histogram(
        self, name: str, documentation: str, buckets: Sequence[float] = SECONDS, labels: Sequence[str] = ()
    ) -> Histogram:
        """A distribution; buckets in the metric's own unit, seconds by default."""
        return self._metric(Histogram, name, documentation, labels, buckets=tuple(buckets))

    def _metric(self, kind: type[Metric], name: str, documentation: str, labels: Sequence[str], **more: Any) -> Metric:
        metric = self._metrics.get(name)
        if metric is None:
            metric = self._metrics[name] = kind(name, documentation, labels, registry=self.registry, **more)
        assert isinstance(metric, kind), f"metric {name} exists as {type(metric).__name__}"
        return metric

    @property
    def tracing(self) -> bool:
        """Whether anything exports spans."""
        return self._tracer is not None

    def span(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
    ) -> contextlib.AbstractContextManager[trace.Span]:
        """A span around the block, child of the current one; an exception is recorded on it."""
        if self._tracer is None:
            return _NO_SPAN
        return self._tracer.start_as_current_span(name, kind=kind, attributes=attributes)

    def begin(self, name: str, attributes: Mapping[str, Any], kind: trace.SpanKind, *, traceparent: str) -> trace.Span:
        """A span that the caller ends, child of the one that `traceparent` (W3C) names."""
        if self._tracer is None:
            return trace.INVALID_SPAN
        parent = _PROPAGATOR.extract({"traceparent": traceparent}, otel_context.Context())
        return self._tracer.start_span(name, parent, kind, attributes)

    def shutdown(self) -> None:
        """Export what is still held back. Blocks; nothing is exported afterwards."""
        for provider in self._providers:
            provider.shutdown()

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)


def happened(name: str, **attributes: str | int | float) -> None:
    """Something happened in the course of the current span; nothing where none is recorded."""
    trace.get_current_span().add_event(name, attributes)


def propagated() -> tuple[tuple[str, str], ...]:
    """Call metadata that carries the current span and request to the other side; empty where there are none."""
    carrier: dict[str, str] = {}
    if trace.get_current_span().get_span_context().is_valid:
        _PROPAGATOR.inject(carrier)
    if request := REQUEST.get():
        carrier[REQUEST_KEY] = request
    return tuple(carrier.items())


@contextlib.contextmanager
def extracted(metadata: Sequence[tuple[str, Any]] | None) -> Iterator[None]:
    """Within: the span that the caller sent along is the current one."""
    carrier = {key: value for key, value in metadata or () if key in ("traceparent", "tracestate")}
    if not carrier:
        yield
        return
    token = otel_context.attach(_PROPAGATOR.extract(carrier))
    try:
        yield
    finally:
        otel_context.detach(token)
