"""Calls within one process: the same handlers and stubs as over gRPC, without serialising."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from actors.base.errors import Conflict, DeadlineExceeded, Internal, RussetError, Unreachable

BUFFERED_MESSAGES = 1024
"""A handler that is this far ahead of its reader waits for it."""
Metadata = Sequence[tuple[str, str]]
log = logging.getLogger(__name__)


class Method(NamedTuple):
    """A servicer's method and its shape."""

    behavior: Callable[[Any, Any], Any]
    request_streaming: bool
    response_streaming: bool


class InprocContext:
    """What handlers use of grpc.aio's ServicerContext."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = tuple(metadata)
        self._callbacks: list[Callable[[Any], None]] = []
        self._cancelled = False

    def invocation_metadata(self) -> Metadata:
        """What the client sent along."""
        return self._metadata

    def peer(self) -> str:
        """Where the client is."""
        return "inproc:"

    def cancelled(self) -> bool:
        """Whether the client has gone."""
        return self._cancelled

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Called with this context when the call has ended."""
        self._callbacks.append(callback)

    def end(self, *, cancelled: bool) -> None:
        """The call has ended."""
        self._cancelled = cancelled
        for callback in self._callbacks:
            callback(self)


class InprocServer:
    """A server's methods by path, and the calls that run."""

    def __init__(self, name: str, methods: dict[str, Method]) -> None:
        self.name = name
        self._methods = methods
        self.running: set[asyncio.Task[Any]] = set()
        self.open = True

    def start(self, path: str, request: Any, metadata: Metadata, timeout: float | None) -> "InprocCall":
        """Run a method in a task of its own. Raises Unreachable where the server has stopped."""
        if not self.open:
            raise Unreachable(f"{self.name} has stopped")
        if (method := self._methods.get(path)) is None:
            raise Internal(f"{self.name} serves no {path}; it serves {', '.join(self._methods)}")
        call = InprocCall(path, method, request, InprocContext(metadata), timeout)
        self.running.add(call.task)
        call.task.add_done_callback(self.running.discard)
        return call

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those that run end for `grace_s` seconds, then cancel them."""
        self.open = False
        if self.running:
            _, late = await asyncio.wait(self.running, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


_SERVERS: dict[str, InprocServer] = {}


def register(server: InprocServer) -> None:
    """Make a server reachable as inproc:NAME. Raises Conflict where the name is taken."""
    if server.name in _SERVERS:
        raise Conflict(f"a server named {server.name} runs in this process already; give this one another name")
    _SERVERS[server.name] = server


def unregister(server: InprocServer) -> None:
    """Forget a server; it refuses new calls from now on."""
    server.open = False
    if _SERVERS.get(server.name) is server:
        del _SERVERS[server.name]


def find(name: str) -> InprocServer | None:
    """The server of that name in this process."""
    return _SERVERS.get(name)


class InprocCall:
    """One call: its handler runs in a task, its messages wait here for the reader.

    Messages are passed, not copied: neither side changes one that it gave away or was given.
    """

    def __init__(self, path: str, method: Method, request: Any, context: InprocContext, timeout: float | None) -> None:
        self._path = path
        self._timeout = timeout
        self._left = False
        self._messages: deque[Any] = deque()
        self._wake_reader: asyncio.Future[None] | None = None
        self._wake_writer: asyncio.Future[None] | None = None
        self._late = False
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self._run(method, request, context))
        # A client that left does not ask how it ended.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._timer = loop.call_later(timeout, self._expire) if timeout is not None else None

    async def _run(self, method: Method, request: Any, context: InprocContext) -> None:
        cancelled = False
        try:
            if method.response_streaming:
                replies = method.behavior(request, context)
                try:
                    async for message in replies:
                        self._messages.append(message)
                        _wake(self._wake_reader)
                        if len(self._messages) >= BUFFERED_MESSAGES:
                            self._wake_writer = asyncio.get_running_loop().create_future()
                            await self._wake_writer
                finally:
                    # The handler's own clean-up ends before the call does, also where the client left early.
                    await replies.aclose()
            else:
                self._messages.append(await method.behavior(request, context))
        except asyncio.CancelledError:
            cancelled = True
            raise
        except RussetError:
            raise
        except Exception as error:
            log.exception("handler failed")
            raise Internal(f"{type(error).__name__}: {error}") from error
        finally:
            if self._timer is not None:
                self._timer.cancel()
            context.end(cancelled=cancelled)
            _wake(self._wake_reader)

    def _expire(self) -> None:
        self._late = True
        self.task.cancel()

    async def read(self) -> Any:
        """The next message; raises StopAsyncIteration at the end, RussetError where the handler raised it."""
        try:
            while not self._messages:
                if self.task.done():
                    return self._end()
                self._wake_reader = asyncio.get_running_loop().create_future()
                await self._wake_reader
        except asyncio.CancelledError:
            self.cancel()
            raise
        _wake(self._wake_writer)
        return self._messages.popleft()

    def _end(self) -> Any:
        if self.task.cancelled():
            if self._late:
                raise DeadlineExceeded(f"{self._path} took longer than its deadline of {self._timeout:.3g} s")
            if self._left:
                raise asyncio.CancelledError
            raise Unreachable(f"{self._path} was ended by its server, which is stopping")
        if (error := self.task.exception()) is not None:
            raise error
        raise StopAsyncIteration

    def cancel(self) -> None:
        """End the handler."""
        self._left = True
        self.task.cancel()


def _wake(sleeper: asyncio.Future[None] | None) -> None:
    if sleeper is not None and not sleeper.done():
        sleeper.set_result(None)
