"""How requests by alias go, told to the router as it becomes known: an A/B between models is read from it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from actors.base.telemetry import Telemetry
from cluster.gateway.config import GatewayConfig
from cluster.gateway.outbox import Outbox
from protos.gen import router_pb2
from protos.gen.router_pb2_grpc import RouterStub

REMEMBERED = 16384
REPORT_TIMEOUT_S = 10.0
FAILURES = ("Unavailable", "Unreachable", "Internal", "DeadlineExceeded")
"""Errors that a model is to blame for; others are the client's, or of a queue that was full."""
ENDED = ("", "cancelled")
"""What stands in the place of an error where there was none."""


class Variant(NamedTuple):
    """The alias that a request named, and the model that it led to."""

    alias: str
    model: str


class Outcomes:
    """Takes what becomes known of requests by alias, and remembers whose answer is whose for ratings that come later.

    Ratings of answers that are not remembered any more, or were another gateway's, do not count here.
    """

    def __init__(self, config: GatewayConfig, router: RouterStub, telemetry: Telemetry) -> None:
        self._router = router
        dropped = telemetry.counter(
            "russet_gateway_records_dropped_total", "Records of finished requests that were lost", labels=("to",)
        )
        count = dropped.labels(to="aliases")
        self._box: Outbox[router_pb2.Outcome] = Outbox(
            "aliases", self._send, count.inc, config.record_queue, config.record_batch, config.record_delay_s
        )
        self._variants: OrderedDict[str, Variant] = OrderedDict()

    def start(self) -> None:
        """Begin to send."""
        self._box.start()

    async def stop(self) -> None:
        """Send what waits, then end."""
        await self._box.flush()
        await self._box.stop()

    def ended(self, answer: str, variant: Variant, error: str, first_s: float | None, each_s: float | None) -> None:
        """A request ended; with an error that is the client's it counts for nothing.

        error: its class, or one of ENDED. first_s, each_s: seconds to its first token, and for each after it, if any.
        """
        if not variant.alias or error not in (*ENDED, *FAILURES):
            return
        self._variants[answer] = variant
        if len(self._variants) > REMEMBERED:
            self._variants.popitem(last=False)
        first_ms, each_ms = (None if seconds is None else seconds * 1e3 for seconds in (first_s, each_s))
        self._put(variant, router_pb2.Outcome(succeeded=error in ENDED, ttft_ms=first_ms, tpot_ms=each_ms))

    def scored(self, answer: str, quality: float) -> None:
        """An answer was scored."""
        if (variant := self._variants.get(answer)) is not None:
            self._put(variant, router_pb2.Outcome(quality=quality))

    def rated(self, answer: str, rating: float) -> None:
        """A client said how good an answer was."""
        if (variant := self._variants.get(answer)) is not None:
            self._put(variant, router_pb2.Outcome(rating=rating))

    def _put(self, variant: Variant, outcome: router_pb2.Outcome) -> None:
        outcome.alias, outcome.model = variant
        self._box.put(outcome)

    async def _send(self, batch: Sequence[router_pb2.Outcome]) -> None:
        await self._router.ReportOutcomes(router_pb2.ReportOutcomesRequest(outcomes=batch), timeout=REPORT_TIMEOUT_S)
