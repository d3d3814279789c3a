"""All metrics of a cluster in one text that Prometheus can read."""

from prometheus_client.parser import text_string_to_metric_families

from actors.base.server import Server
from actors.base.telemetry import Telemetry
from cluster.identity import TelemetryService, identify, merge, scrape
from protos.gen import telemetry_pb2, telemetry_pb2_grpc


def samples(text: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("service", "")): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_family_stands_once_and_its_samples_keep_their_origin() -> None:
    texts = {}
    for count, service in ((1, "a"), (2, "b")):
        telemetry = Telemetry(service)
        telemetry.counter("vllm:prompt_tokens_total", "Prompt tokens").inc(count)
        texts[service] = telemetry.render()
    merged = merge({**texts, "c": None})
    assert merged.count(b"# TYPE vllm:prompt_tokens_total counter") == 1
    values = samples(merged)
    assert values["vllm:prompt_tokens_total", "a"] == 1
    assert values["vllm:prompt_tokens_total", "b"] == 2
    assert [values["russet_up", service] for service in "abc"] == [1, 1, 0]


async def test_scrape_and_identify_over_the_wire() -> None:
    telemetry = Telemetry("router")
    telemetry.gauge("russet_things", "Things").set(3)
    who = telemetry_pb2.Identity(role="router", replica="0", pid=7)
    add = telemetry_pb2_grpc.add_TelemetryServicer_to_server
    server = Server("identity-test", [(add, TelemetryService(telemetry, who))], tcp="127.0.0.1:0")
    addresses = await server.start()
    try:
        assert (await identify(addresses[1:])).pid == 7
        values = samples(await scrape({"router": addresses[1:], "gone": ["tcp:127.0.0.1:1"]}))
        assert values["russet_things", "router"] == 3
        assert values["russet_up", "gone"] == 0
    finally:
        await server.stop(0)
