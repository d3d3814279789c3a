"""What every process says of itself, and all of a cluster's metrics in one text."""

import asyncio
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from actors.base.channel import connect
from actors.base.errors import RussetError
from actors.base.telemetry import Telemetry
from protos.gen import telemetry_pb2, telemetry_pb2_grpc

SCRAPE_TIMEOUT_S = 1.0


class TelemetryService(telemetry_pb2_grpc.TelemetryServicer):
    """Answers for one process: who it is, and its metrics."""

    def __init__(self, telemetry: Telemetry, identity: telemetry_pb2.Identity) -> None:
        self._telemetry = telemetry
        self._identity = identity

    async def Scrape(self, request: telemetry_pb2.ScrapeRequest, context: object) -> telemetry_pb2.ScrapeReply:
        """The metrics of this process."""
        return telemetry_pb2.ScrapeReply(text=self._telemetry.render())

    async def Identify(self, request: telemetry_pb2.IdentifyRequest, context: object) -> telemetry_pb2.Identity:
        """Role, replica, node, pid."""
        return self._identity


async def identify(addresses: Sequence[str]) -> telemetry_pb2.Identity:
    """Ask who answers at `addresses`. Raises RussetError where nobody does within a second."""
    channel = connect(list(addresses))
    try:
        stub = telemetry_pb2_grpc.TelemetryStub(channel)
        return await stub.Identify(telemetry_pb2.IdentifyRequest(), timeout=SCRAPE_TIMEOUT_S)
    finally:
        await channel.close()


async def scrape(services: Mapping[str, Sequence[str]]) -> bytes:
    """Every service's metrics as one Prometheus text; services that do not answer are counted in russet_up."""
    texts = await asyncio.gather(*(_scrape_one(addresses) for addresses in services.values()))
    return merge(dict(zip(services, texts, strict=True)))


async def _scrape_one(addresses: Sequence[str]) -> bytes | None:
    channel = connect(list(addresses))
    try:
        stub = telemetry_pb2_grpc.TelemetryStub(channel)
        reply = await stub.Scrape(telemetry_pb2.ScrapeRequest(), timeout=SCRAPE_TIMEOUT_S)
        return reply.text
    except RussetError:
        return None
    finally:
        await channel.close()


def merge(texts: Mapping[str, bytes | None]) -> bytes:
    """Join Prometheus texts by metric family, since a family may stand in a text only once.

    Each sample gets the label `service`, the name it came from (its key in `texts`). A text that is None gives
    russet_up{service} 0, any other 1.
    """
    families: dict[str, Metric] = {}
    up = Metric("russet_up", "Whether the service answered this scrape", "gauge")
    for service, text in texts.items():
        up.add_sample("russet_up", {"service": service}, 0 if text is None else 1)
        for family in text_string_to_metric_families(text.decode()) if text else ():
            joined = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                joined.samples.append(sample._replace(labels={**sample.labels, "service": service}))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([up, *families.values()]))
    return generate_latest(registry)


class _Families:
    """A prometheus_client collector over families made already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        """What the registry renders."""
        return self._families
