"""Units of KV from other workers of the cluster: they come sealed, and whoever gets them opens them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future

from actors.base.channel import Channel, connect
from actors.base.errors import InvalidArgument, RussetError
from actors.worker.kept_jobs import Fetched, Load, keys_in
from actors.worker.sealed import KEY_BYTES
from actors.worker.seldom import Seldom
from protos.gen import worker_pb2, worker_pb2_grpc

log = logging.getLogger(__name__)

MAX_KEYS = 1024
"""Most keys of one Fetch."""

PIECE_BYTES = 1 << 20

SILENCE_S = 2.0
"""A worker that sends nothing for so long is given up: what it should send is computed again."""

MAX_CHANNELS = 16


class Peers:
    """Asks other workers. It lives on an event loop; `ask` may be called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._channels: dict[tuple[str, ...], Channel] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._warn = Seldom(log)

    def ask(
        self, addresses: tuple[str, ...], loads: list[Load], most_bytes: int, answer: Callable[[Fetched], None]
    ) -> None:
        """Fetch the units of `loads` from the worker at `addresses`. Each is answered once, with None where none came.

        Of a call, the next unit is read from the network when the last one has been taken.
        """
        self._loop.call_soon_threadsafe(self._begin, addresses, loads, most_bytes, answer)

    async def close(self) -> None:
        """End every call."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def _begin(
        self, addresses: tuple[str, ...], loads: list[Load], most_bytes: int, answer: Callable[[Fetched], None]
    ) -> None:
        for at in range(0, len(loads), MAX_KEYS):
            task = asyncio.ensure_future(self._fetch(addresses, loads[at : at + MAX_KEYS], most_bytes, answer))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _fetch(
        self, addresses: tuple[str, ...], loads: list[Load], most_bytes: int, answer: Callable[[Fetched], None]
    ) -> None:
        waiting = {load.key: load for load in loads}
        twice = [load for load in loads if waiting[load.key] is not load]
        began = time.perf_counter()
        try:
            stub = worker_pb2_grpc.WorkerStub(await self._channel(addresses))
            async with asyncio.timeout(SILENCE_S) as silence:
                pieces = stub.Fetch(worker_pb2.FetchRequest(keys=b"".join(waiting)))
                async for key, sealed in _units(pieces, most_bytes, silence):
                    load = waiting.pop(key, None)
                    if load is None:
                        raise InvalidArgument(f"it sent {key.hex()}, for which nobody asked")
                    taken: Future[None] = Future()
                    silence.reschedule(None)
                    answer(Fetched(load, sealed, time.perf_counter() - began, taken))
                    await asyncio.wrap_future(taken)
                    began = time.perf_counter()
                    silence.reschedule(self._loop.time() + SILENCE_S)
        except (RussetError, TimeoutError) as failure:
            self._warn.warning("no KV from the worker at %s: %s", ", ".join(addresses), failure or "it is silent")
        finally:
            for load in (*waiting.values(), *twice):
                answer(Fetched(load, None, 0.0, Future()))

    async def _channel(self, addresses: tuple[str, ...]) -> Channel:
        """The one in use, or a new one; of too many, the oldest goes."""
        channel = self._channels.get(addresses)
        if channel is None:
            if len(self._channels) == MAX_CHANNELS:
                await self._channels.pop(next(iter(self._channels))).close()
            channel = self._channels[addresses] = connect(addresses)
        return channel


async def _units(
    pieces: AsyncIterator[worker_pb2.KeptUnit], most_bytes: int, silence: asyncio.Timeout
) -> AsyncIterator[tuple[bytes, bytes]]:
    """Key and sealed bytes of each unit, put together. Raises InvalidArgument where one is too long."""
    clock = asyncio.get_running_loop().time
    sealed = bytearray()
    async for piece in pieces:
        silence.reschedule(clock() + SILENCE_S)
        if len(sealed) + len(piece.piece) > most_bytes:
            raise InvalidArgument(f"it sent a unit of more than {most_bytes} bytes")
        sealed += piece.piece
        if piece.end:
            yield piece.key, bytes(sealed)
            sealed.clear()


def asked_for(request: worker_pb2.FetchRequest) -> Sequence[bytes]:
    """The keys of a Fetch. Raises InvalidArgument where they are none, too many or malformed."""
    keys = request.keys
    if not keys or len(keys) % KEY_BYTES or len(keys) > MAX_KEYS * KEY_BYTES:
        raise InvalidArgument(
            f"keys: {len(keys)} bytes; from 1 to {MAX_KEYS} keys of {KEY_BYTES} bytes each are accepted", param="keys"
        )
    return keys_in(keys)


def in_pieces(key: bytes, sealed: bytes) -> Iterator[worker_pb2.KeptUnit]:
    """A unit as Fetch sends it."""
    for at in range(0, len(sealed), PIECE_BYTES):
        piece = sealed[at : at + PIECE_BYTES]
        yield worker_pb2.KeptUnit(key=key, piece=piece, end=at + PIECE_BYTES >= len(sealed))
