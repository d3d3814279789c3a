"""One look at every service: who it is, and its figures. Who does not answer is in it too."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.base.channel import connect
from actors.base.errors import RussetError
from cluster.identity import SCRAPE_TIMEOUT_S
from cluster.view.figures import Figures, figures_of
from protos.gen import telemetry_pb2, telemetry_pb2_grpc

Published = Callable[[], Awaitable[Mapping[str, Sequence[str]]]]
"""Every published service and its addresses."""


@dataclass(frozen=True)
class Service:
    """One service as it was seen. Of one that did not answer, who it is comes from the last time that it did."""

    name: str
    role: str
    replica: str
    node: str = ""
    pid: int = 0
    started_s: float = 0
    """Unix seconds."""
    version: str = ""
    problem: str = ""
    """Why it did not answer; empty where it did."""
    figures: Figures = field(default_factory=Figures)


@dataclass(frozen=True)
class Look:
    """Every service at one moment (monotonic seconds), by name."""

    at_s: float
    services: Mapping[str, Service]

    def of(self, role: str) -> list[Service]:
        """Those of a role that answered."""
        return [service for service in self.services.values() if service.role == role and not service.problem]


NOTHING = Look(0, {})


async def look(published: Published, before: Look = NOTHING) -> Look:
    """Ask every service, all at once, each for a second at most.

    One that was there `before` and is published no more is gone for good.
    """
    services = await published()
    seen = await asyncio.gather(*(_ask(name, at, before.services.get(name)) for name, at in services.items()))
    return Look(time.monotonic(), {service.name: service for service in seen})


async def _ask(name: str, addresses: Sequence[str], before: Service | None) -> Service:
    channel = connect(list(addresses))
    try:
        stub = telemetry_pb2_grpc.TelemetryStub(channel)
        who, scraped = await asyncio.gather(
            stub.Identify(telemetry_pb2.IdentifyRequest(), timeout=SCRAPE_TIMEOUT_S),
            stub.Scrape(telemetry_pb2.ScrapeRequest(), timeout=SCRAPE_TIMEOUT_S),
        )
    except RussetError as error:
        role, _, replica = name.partition("-")
        known = before or Service(name, role, replica or "0")
        return Service(name, known.role, known.replica, known.node, known.pid, problem=str(error))
    finally:
        await channel.close()
    figures = figures_of(scraped.text)
    return Service(name, who.role, who.replica, who.node, who.pid, who.started_s, who.version, figures=figures)
