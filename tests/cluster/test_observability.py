"""What an operator sees of the whole system: one trace a request, OpenTelemetry's metrics, Prometheus's names."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from actors.base.channel import connect
from cluster import telemetry
from cluster.local import LocalCluster
from cluster.telemetry import TelemetryConfig
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Count to ten."}], "temperature": 0}
TOKENS = 12


class Spans(InMemorySpanExporter):
    """Says when a span has arrived; all come from the event loop's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()

    def export(self, spans: Any) -> Any:
        result = super().export(spans)
        self.arrived.set()
        return result


class Observed:
    """A cluster whose services export into this process."""

    def __init__(self) -> None:
        self.spans = Spans()
        self.readers: list[InMemoryMetricReader] = []
        self.cluster: LocalCluster

    def exporters(self, config: TelemetryConfig) -> Any:
        self.readers.append(InMemoryMetricReader())
        return [SimpleSpanProcessor(self.spans)], [self.readers[-1]]

    async def ask(self, **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=60) as http:
            headers = more.pop("headers", {})
            body = CHAT | {"max_tokens": TOKENS, "ignore_eos": True} | more
            return await http.post(f"{self.cluster.http}/v1/chat/completions", json=body, headers=headers)

    async def until(self, *names: str) -> None:
        """Return when spans of all `names` have ended: a worker's ends a moment after its client's answer."""
        async with asyncio.timeout(10):
            while not set(names) <= {span.name for span in self.spans.get_finished_spans()}:
                self.spans.arrived.clear()
                await self.spans.arrived.wait()

    async def trace(self, *names: str) -> dict[str, ReadableSpan]:
        """The finished spans by name, once all `names` are there."""
        await self.until(*names)
        spans = self.spans.get_finished_spans()
        found = {span.name: span for span in spans}
        assert len(found) == len(spans), "every span once"
        return found

    def measured(self, name: str) -> Any:
        """The data points of an OpenTelemetry histogram, over all services."""
        points = []
        for reader in self.readers:
            data = reader.get_metrics_data()
            for resource in data.resource_metrics if data else ():
                metrics = [metric for scope in resource.scope_metrics for metric in scope.metrics]
                points += [point for metric in metrics if metric.name == name for point in metric.data.data_points]
        return points


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running() -> AsyncIterator[Observed]:
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    observed = Observed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "exporters", observed.exporters)
        async with LocalCluster(settings(path)) as observed.cluster:
            await observed.ask()  # the gateway learns which model there is: that is routed for too
            await observed.until("worker.row")
            yield observed
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def observed(running: Observed) -> Observed:
    """The cluster, with no span yet."""
    running.spans.clear()
    return running


CHAIN = ("POST /v1/chat/completions", f"chat {MODEL}", "scheduler.generate", "worker.row")
SESSION = "russet.memory.v1.Memory/GetSession"
SERVICES = ("russet-gateway", "russet-gateway", "russet-scheduler", "russet-worker")


@pytest.mark.parametrize("stream", [False, True])
async def test_one_request_is_one_trace(observed: Observed, stream: bool) -> None:
    caller = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    reply = await observed.ask(stream=stream, headers=caller | {"x-russet-session": f"streamed {stream}"})
    assert reply.status_code == 200
    spans = await observed.trace(*CHAIN)
    assert set(spans) == {*CHAIN, "router.route", SESSION}, "and none a token"
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {caller["traceparent"][3:35]}  # type: ignore[union-attr]
    parents = {name: span.parent.span_id for name, span in spans.items()}  # type: ignore[union-attr]
    ids = {name: span.context.span_id for name, span in spans.items()}  # type: ignore[union-attr]
    assert f"{parents[CHAIN[0]]:016x}" == "00f067aa0ba902b7"
    assert [parents[child] for child in CHAIN[1:]] == [ids[parent] for parent in CHAIN[:-1]]
    assert parents["router.route"] == parents[SESSION] == ids[CHAIN[1]]
    assert spans[SESSION].resource.attributes["service.name"] == "russet-memory"
    assert tuple(spans[name].resource.attributes["service.name"] for name in CHAIN) == SERVICES

    said = dict(spans[CHAIN[1]].attributes or {})
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "russet"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == MODEL
    assert said["gen_ai.request.max_tokens"] == TOKENS
    assert said["gen_ai.request.temperature"] == 0
    assert said["gen_ai.conversation.id"] == f"streamed {stream}"
    assert said["gen_ai.response.finish_reasons"] == ("length",)
    assert said["gen_ai.usage.output_tokens"] == TOKENS
    row = dict(spans["worker.row"].attributes or {})
    prompt = said["gen_ai.usage.input_tokens"]
    assert isinstance(prompt, int)
    assert prompt == row["gen_ai.usage.input_tokens"]
    assert said["gen_ai.usage.cache_read.input_tokens"] == prompt // 16 * 16 > 0, "it was asked before"
    assert (row["gen_ai.usage.output_tokens"], row["russet.row_end"]) == (TOKENS, "length")
    assert [event.name for event in spans["worker.row"].events] == ["first token"]
    assert spans[CHAIN[0]].attributes["http.response.status_code"] == 200  # type: ignore[index]
    written = str([span.to_json() for span in spans.values()])
    assert "Count to ten" not in written, "what users write is in no span"


async def test_memory_and_learner_are_part_of_the_trace(observed: Observed) -> None:
    answer = (await observed.ask()).json()
    await observed.until("worker.row")
    observed.spans.clear()
    async with httpx.AsyncClient(base_url=observed.cluster.http, timeout=60) as http:
        rated = await http.post("/v1/feedback", json={"response_id": answer["id"], "rating": 1})
        assert rated.status_code == 200
        embedded = await http.post("/v1/embeddings", json={"model": "minilm", "input": "Hello"})
    for status, path, call in (
        (rated.status_code, "POST /v1/feedback", "russet.learner.v1.Learner/Feedback"),
        (embedded.status_code, "POST /v1/embeddings", "russet.memory.v1.Memory/Embed"),
    ):
        if status == 200:
            spans = await observed.trace(path, call)
            assert spans[call].context.trace_id == spans[path].context.trace_id  # type: ignore[union-attr]
            assert spans[call].parent.span_id == spans[path].context.span_id  # type: ignore[union-attr]


async def test_a_trace_over_grpc_begins_at_its_caller(observed: Observed) -> None:
    channel = connect(f"tcp:{observed.cluster.grpc}")
    request = inference_pb2.ChatRequest(
        model=MODEL,
        messages=[inference_pb2.Message(role="user", content="Hello")],
        decoding=inference_pb2.Decoding(max_tokens=4, ignore_eos=True),
    )
    caller = telemetry.Telemetry("client", spans=[SimpleSpanProcessor(observed.spans)])
    with caller.span("client"):
        assert [chunk async for chunk in InferenceStub(channel).ChatStream(request)]
    await channel.close()
    spans = await observed.trace("client", *CHAIN[1:])
    assert len({span.context.trace_id for span in spans.values()}) == 1  # type: ignore[union-attr]
    assert spans[CHAIN[1]].parent.span_id == spans["client"].context.span_id  # type: ignore[union-attr]


async def test_what_fails_and_who_leaves_end_their_spans(observed: Observed) -> None:
    assert (await observed.ask(model="nonesuch")).status_code == 404
    spans = await observed.trace("chat nonesuch", "POST /v1/chat/completions")
    assert spans["chat nonesuch"].attributes["error.type"] == "NotFound"  # type: ignore[index]
    assert not spans["chat nonesuch"].status.is_ok
    observed.spans.clear()
    async with (
        httpx.AsyncClient() as http,
        http.stream(
            "POST",
            f"{observed.cluster.http}/v1/chat/completions",
            json=CHAT | {"max_tokens": 4000, "ignore_eos": True, "stream": True},
        ) as response,
    ):
        await anext(response.aiter_lines())
    spans = await observed.trace(*CHAIN)
    assert spans[CHAIN[1]].attributes["error.type"] == "cancelled"  # type: ignore[index]
    assert spans["worker.row"].attributes["russet.row_end"] == "dropped"  # type: ignore[index]


async def test_opentelemetry_measures_served_requests(observed: Observed) -> None:
    names = ["request.duration", "time_to_first_token", "time_per_output_token"]

    def totals(name: str) -> tuple[int, float]:
        points = [
            point
            for point in observed.measured(f"gen_ai.server.{name}")
            if point.attributes.get("gen_ai.request.model") == MODEL and "error.type" not in point.attributes
        ]
        assert all(point.attributes["gen_ai.provider.name"] == "russet" for point in points)
        return sum(point.count for point in points), sum(point.sum for point in points)

    before = [totals(name) for name in names]
    await observed.ask()
    after = [totals(name) for name in names]
    assert [new[0] - old[0] for old, new in zip(before, after, strict=True)] == [1, 1, 1]
    total, first, each = (new[1] - old[1] for old, new in zip(before, after, strict=True))
    assert 0 < first < total
    assert 0 < each <= (total - first) / (TOKENS - 1) * 1.001
    await observed.ask(model="x" * 50)
    failed = [p for p in observed.measured("gen_ai.server.request.duration") if "error.type" in p.attributes]
    assert all("x" * 50 not in str(point.attributes) for point in failed), "what clients write is no label value"
    assert failed


async def test_dashboards_made_for_vllm_find_their_names(observed: Observed) -> None:
    async def scrape() -> dict[str, float]:
        text = (await httpx.AsyncClient().get(f"{observed.cluster.http}/metrics")).text
        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("vllm:") and not sample.name.endswith("_bucket"):
                    totals[sample.name] = totals.get(sample.name, 0) + sample.value
        return totals

    before = await scrape()
    usages = [(await observed.ask()).json()["usage"] for _ in range(3)]
    at_rest = await scrape()
    grown = {name: value - before.get(name, 0) for name, value in at_rest.items()}
    prompt, output = (sum(usage[f"{kind}_tokens"] for usage in usages) for kind in ("prompt", "completion"))
    assert (prompt > 0, output) == (True, 3 * TOKENS)
    assert grown["vllm:prompt_tokens_total"] == prompt
    assert grown["vllm:generation_tokens_total"] == output
    assert grown["vllm:time_to_first_token_seconds_count"] == 3
    assert grown["vllm:e2e_request_latency_seconds_count"] == 3
    assert 0 < grown["vllm:time_to_first_token_seconds_sum"] < grown["vllm:e2e_request_latency_seconds_sum"]
    # Every token after a request's first has its time between tokens.
    assert grown["vllm:inter_token_latency_seconds_count"] == output - 3
    between = grown["vllm:e2e_request_latency_seconds_sum"] - grown["vllm:time_to_first_token_seconds_sum"]
    assert grown["vllm:inter_token_latency_seconds_sum"] == pytest.approx(between, rel=0.2)
    assert "vllm:num_preemptions_total" in at_rest
    resting = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    assert [at_rest[f"vllm:{name}"] for name in resting] == [0, 0, 0]

    body = CHAT | {"max_tokens": 1000, "ignore_eos": True, "stream": True}
    async with (
        httpx.AsyncClient() as http,
        http.stream("POST", f"{observed.cluster.http}/v1/chat/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        for _ in range(12):
            await anext(lines)
        busy = await scrape()
    assert busy["vllm:num_requests_running"] == 1
    assert 0 < busy["vllm:kv_cache_usage_perc"] < 1
