"""Metrics under the names that dashboards read; spans that cost nothing unless something exports them."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from actors.base.telemetry import Telemetry, extracted, propagated


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Rendered samples by name and labels."""
    families = text_string_to_metric_families(telemetry.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_metrics_render_with_vllm_names_and_labels():
    telemetry = Telemetry("scheduler", "r0")
    telemetry.counter("vllm:prompt_tokens_total", "Tokens").inc(3)
    telemetry.gauge("vllm:num_requests_running", "Running").set(2)
    telemetry.counter("russet_x_total", "X", labels=("a",)).labels(a="1").inc()
    telemetry.histogram("vllm:time_to_first_token_seconds", "TTFT", buckets=(0.1, 1.0)).observe(0.5)
    got = samples(telemetry)
    assert got["vllm:prompt_tokens_total", ()] == 3
    assert got["vllm:num_requests_running", ()] == 2
    assert got["russet_x_total", (("a", "1"),)] == 1
    assert got["vllm:time_to_first_token_seconds_bucket", (("le", "0.1"),)] == 0
    assert got["vllm:time_to_first_token_seconds_bucket", (("le", "1.0"),)] == 1


def test_the_same_name_is_the_same_metric_and_roles_do_not_share():
    one, other = Telemetry("router"), Telemetry("memory")
    assert one.counter("russet_x_total", "X") is one.counter("russet_x_total", "X")
    one.counter("russet_x_total", "X").inc()
    other.counter("russet_x_total", "X")
    assert samples(one)["russet_x_total", ()] == 1
    assert samples(other)["russet_x_total", ()] == 0
    with pytest.raises(AssertionError, match="exists as Counter"):
        one.gauge("russet_x_total", "X")


def test_spans_nest_and_name_their_service():
    exporter = InMemorySpanExporter()
    telemetry = Telemetry("scheduler", "r0", spans=[SimpleSpanProcessor(exporter)])
    with pytest.raises(ValueError, match="broken"), telemetry.span("outer"), telemetry.span("inner", {"n": 1}):
        raise ValueError("broken")
    inner, outer = exporter.get_finished_spans()
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert dict(inner.attributes or {}) == {"n": 1}
    assert inner.resource.attributes["service.name"] == "russet-scheduler"
    assert [event.name for event in inner.events] == ["exception"]


def test_without_an_exporter_the_callers_span_travels_on():
    exporter = InMemorySpanExporter()
    recording, silent = Telemetry("gateway", spans=[SimpleSpanProcessor(exporter)]), Telemetry("scheduler")
    with recording.span("outer"):
        sent = propagated()
        with silent.span("middle", {"ignored": True}) as span:
            assert propagated() == sent
            span.set_attribute("ignored", True)
    assert [span.name for span in exporter.get_finished_spans()] == ["outer"]
    assert dict(exporter.get_finished_spans()[0].attributes or {}) == {}


def test_a_span_goes_on_where_its_metadata_arrives():
    telemetry = Telemetry("gateway", spans=[SimpleSpanProcessor(InMemorySpanExporter())])
    assert propagated() == ()
    with telemetry.span("outer") as span:
        sent = propagated()
        trace_id = span.get_span_context().trace_id
    with extracted((*sent, ("other", b"x"))):
        assert trace.get_current_span().get_span_context().trace_id == trace_id
    assert not trace.get_current_span().get_span_context().is_valid


def test_opentelemetry_metrics_reach_a_reader():
    reader = InMemoryMetricReader()
    telemetry = Telemetry("gateway", readers=[reader])
    telemetry.meter.create_histogram("gen_ai.server.time_to_first_token", unit="s").record(0.25)
    data = reader.get_metrics_data()
    assert data is not None
    metric = data.resource_metrics[0].scope_metrics[0].metrics[0]
    assert metric.name == "gen_ai.server.time_to_first_token"
