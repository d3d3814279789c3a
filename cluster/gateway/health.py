"""Whether tokens come out: a port that answers proves nothing, so health runs one."""

import asyncio
import time

from actors.base.errors import RussetError, Unavailable
from cluster.gateway.caller import Caller
from cluster.gateway.requests import Requests
from protos.gen import inference_pb2

PROBE = inference_pb2.CompleteRequest(
    text="Hello",
    decoding=inference_pb2.Decoding(max_tokens=1, sampling=inference_pb2.Sampling(temperature=0)),
    priority=inference_pb2.PRIORITY_CRITICAL,
)


class Health:
    """One token through router, scheduler and worker, not more often than every health_ttl_s.

    A token that any client got meanwhile says the same and saves the probe.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._config = requests.config
        self._checked_s = float("-inf")
        self._problem: RussetError | None = None
        self._checking = asyncio.Lock()

    async def check(self) -> None:
        """Return where tokens come out; raise Unavailable with the reason where they do not."""
        async with self._checking:
            fresh_since = time.monotonic() - self._config.health_ttl_s
            if self._requests.last_token_s > fresh_since:
                return
            if self._checked_s <= fresh_since:
                self._problem = await self._probe()
                self._checked_s = time.monotonic()
        if self._problem is not None:
            raise Unavailable(f"no token comes out: {self._problem}", retry_after_s=max(1.0, self._config.health_ttl_s))

    async def _probe(self) -> RussetError | None:
        caller, requests = Caller("health"), self._requests
        generation = requests.begin(PROBE, caller, requests.recall.begin(PROBE, caller), probe=True)
        try:
            async with asyncio.timeout(self._config.health_timeout_s):
                await generation.answer()
        except RussetError as error:
            return error
        except TimeoutError:
            return Unavailable(f"a token took longer than {self._config.health_timeout_s:g} s")
        return None
