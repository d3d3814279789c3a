"""A tool server that is kept: connected at the start, connected again when it ends, and called within a time."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from actors.base.errors import InvalidArgument
from cluster.tool_runtime.config import ServerConfig, ToolsConfig, expanded, variables
from cluster.tool_runtime.offers import CallFailed, Offer, Output

if TYPE_CHECKING:
    from cluster.tool_runtime.session import Session

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
PROBE_S = 5.0
"""Longest a server may take to list its tools after a call to it took too long, before it is started anew."""


class State(StrEnum):
    """Whether a server's tools can be called."""

    CONNECTING = "connecting"
    """For the first time, or again right after its session ended: calls wait for it."""
    READY = "ready"
    DOWN = "down"
    """Tried again now and then: calls fail at once."""


class Connection:
    """One configured server."""

    def __init__(self, server: ServerConfig, config: ToolsConfig, environ: Mapping[str, str]) -> None:
        self.server = server
        self.state = State.CONNECTING
        self.problem = ""
        """Why it is down."""
        self.offers: Sequence[Offer] = ()
        """As last listed; kept while it is away."""
        self._config = config
        self._environ = environ
        self._secrets: list[str] = []
        self._session: Session | None = None
        self._stopped = False
        """Whether its process was ended to stop a function."""
        self._closing: set[asyncio.Task[Any]] = set()
        self._tried = asyncio.Event()
        """Set once it was, or could not be, reached for the first time."""
        self._settled = asyncio.Event()
        """Set while it is not connecting."""
        self._keeper: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        """stdio, http or python."""
        return "stdio" if self.server.command else "http" if self.server.url else "python"

    async def start(self) -> None:
        """Begin to connect."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End the session and the program behind it."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def tried(self) -> None:
        """Wait for the end of the first attempt to connect."""
        await self._tried.wait()

    async def settled(self) -> None:
        """Wait while it is connecting; at most as long as that may take."""
        await self._settled.wait()

    async def call(self, tool: str, arguments: dict[str, Any], timeout_s: float) -> Output:
        """Call a tool by the name that the server gives it. Raises CallFailed, after `timeout_s` at the latest."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + timeout_s
        if self.state is State.READY and self._session is not None and self._session.ended.is_set():
            self._connecting()  # As the keeper is about to find out.
        if self.state is State.CONNECTING:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.settled(), timeout_s)
        session = self._session
        if self.state is not State.READY or session is None:
            raise CallFailed(f"the tool's server {self.server.name} is not there now: {self.problem or 'connecting'}")
        # A task of its own: what the SDK still does once a call was given up may not hold the one who called.
        task = asyncio.create_task(session.call(tool, arguments))
        try:
            await asyncio.wait([task], timeout=max(0.0, until_s - clock()))
        finally:
            if not task.done():
                self._close(task)
                task.cancel()
        if not task.done():
            self._suspect(session)
            raise CallFailed(f"it took longer than {timeout_s:.3g} s and was given up")
        try:
            return task.result()
        except CallFailed as error:
            raise CallFailed(self._hidden(f"the tool {tool} of {self.server.name}: {error}")) from error

    async def _keep(self) -> None:
        pause_s = 0.0
        while True:
            session = self._session = None
            try:
                session = self._session = self._open()
                await session.opened()
            except InvalidArgument as error:
                problem = error.message
                pause_s = max(pause_s, FIRST_PAUSE_S)
            except Exception as error:
                problem = self._reason(error, self._config.connect_timeout_s)
                pause_s = max(pause_s, FIRST_PAUSE_S)
            else:
                problem = "its session ended"
                lived_s = await self._use(session)
                if lived_s > LAST_PAUSE_S or self._stopped:
                    pause_s = 0.0  # What lived long, or was ended from here, is connected again at once.
                self._stopped = False
                self._connecting()
            finally:
                if session is not None:
                    self._close(asyncio.create_task(session.closed()))
            log.warning("tool server %s: %s", self.server.name, problem)
            if pause_s:
                self._settle(State.DOWN, problem)
                await asyncio.sleep(pause_s)
            pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LAST_PAUSE_S)

    def _connecting(self) -> None:
        self.state = State.CONNECTING
        self._settled.clear()

    def _settle(self, state: State, problem: str = "") -> None:
        self.state, self.problem = state, problem
        self._settled.set()
        self._tried.set()

    async def _use(self, session: "Session") -> float:
        """The time in which the session's tools can be called; seconds that it was."""
        clock = asyncio.get_running_loop().time
        began_s = clock()
        self.offers = session.offers
        self._settle(State.READY)
        log.info("tool server %s is ready with %d tools", self.server.name, len(self.offers))
        while not session.ended.is_set():
            try:
                await asyncio.wait_for(session.ended.wait(), self._config.relist_s)
            except TimeoutError:
                await self._probe(session, self._config.connect_timeout_s)
            self.offers = session.offers
        return clock() - began_s

    def _open(self) -> "Session":
        """Begin a session. Raises InvalidArgument where an environment variable is missing."""
        # Imported with the first server: who has none shall not pay for the SDK.
        from cluster.tool_runtime.session import Session
        from cluster.tool_runtime.transports import http_transport, stdio_transport

        server, timeout_s, most_bytes = self.server, self._config.connect_timeout_s, self._config.max_message_bytes
        env, headers = expanded(server.env, self._environ), expanded(server.headers, self._environ)
        self._secrets = [self._environ[name] for name in (*variables(server.env), *variables(server.headers))]
        if server.url:
            return Session(http_transport(server.url, headers, timeout_s, most_bytes), timeout_s)
        command = [server.command, *server.args]
        if server.entry_point:
            command = [sys.executable, "-m", "cluster.tool_runtime.entry_point", server.entry_point]
        directory = str(server.directory.expanduser()) if server.directory else None
        return Session(stdio_transport(command, env, directory, most_bytes), timeout_s)

    def _suspect(self, session: "Session") -> None:
        """A call took too long: a function cannot be stopped but by ending its process; a server may be well."""
        if self.server.entry_point:
            self._stopped = not session.ended.is_set()
            session.end()
        else:
            self._close(asyncio.create_task(self._probe(session, PROBE_S)))

    async def _probe(self, session: "Session", timeout_s: float) -> None:
        """List the session's tools again; end it where that fails."""
        try:
            async with asyncio.timeout(timeout_s):
                await session.list()
        except Exception as error:
            log.warning("tool server %s does not answer: %s", self.server.name, self._reason(error, timeout_s))
            session.end()

    def _close(self, task: asyncio.Task[Any]) -> None:
        """Let something end by itself; stop() waits for it."""
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[Any]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # A call that was given up may fail in its own way.

    def _reason(self, error: BaseException, timeout_s: float) -> str:
        from cluster.tool_runtime.session import reason_of

        return self._hidden(reason_of(error, timeout_s))

    def _hidden(self, text: str) -> str:
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "***")
        return text[:500]
