"""One MCP session from handshake to end, in a task of its own: the SDK's cancel scopes may not change tasks.

What knows the SDK is here, and is imported when the first server is connected: it takes 0.4 s and 17 MB.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import mcp_types as types
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from cluster.tool_runtime.offers import CallFailed, Offer, Output
from cluster.tool_runtime.transports import Tell, Transport

MAX_TOOLS = 1000
"""Tools of one server; a list that goes on is cut, so that one that never ends cannot hold anything."""


class _Watched:
    """The stream that a session reads from, and an event that is set once nothing more will come."""

    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def aclose(self) -> None:
        self._ended.set()
        await self._stream.aclose()

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._ended.set()
            raise

    async def __aenter__(self) -> "_Watched":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        self._ended.set()
        return await self._stream.__aexit__(*raised)


class Session:
    """A connected server: `await opened()`, then call. `ended` is set once it is of no more use."""

    def __init__(self, transport: Transport, timeout_s: float) -> None:
        """Begins at once. `timeout_s`: for the start, the handshake and the first list of tools together."""
        self.ended = asyncio.Event()
        self.offers: list[Offer] = []
        """As last listed."""
        self._why = "its server ended before it answered"
        self._transport = transport
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def opened(self) -> None:
        """Wait until tools can be called. Raises whatever went wrong."""
        await asyncio.shield(self._opened)

    async def list(self) -> None:
        """Read the list of tools again. Raises as the SDK does."""
        tools: list[types.Tool] = []
        cursor = None
        while True:
            page = await self._connected.list_tools(cursor=cursor, cache_mode="bypass")
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None or len(tools) >= MAX_TOOLS:
                break
        offers = [offer_of(tool) for tool in tools[:MAX_TOOLS]]
        if offers != self.offers:
            self.offers = offers

    async def call(self, tool: str, arguments: dict[str, Any]) -> Output:
        """Call a tool. Raises CallFailed; waits as long as it takes."""
        try:
            return output_of(await self._connected.call_tool(tool, arguments))
        except MCPError as error:
            if self.ended.is_set():
                raise CallFailed(self._why) from error
            raise CallFailed(str(error)) from error
        except Exception as error:  # An answer that is not of the protocol, or a break in the transport.
            self.end()
            raise CallFailed(f"{type(error).__name__}: {error}") from error

    @property
    def _connected(self) -> Client:
        assert self._client is not None
        return self._client

    def end(self) -> None:
        """Begin to close it: a program gets its input closed, then is terminated, then killed."""
        self.ended.set()

    async def closed(self) -> None:
        """Wait until nothing of it is left; seconds where a program has to be killed."""
        self.ended.set()
        await asyncio.gather(self._task, return_exceptions=True)

    def _tell(self, why: str) -> None:
        self._why = why

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._timeout_s):
                    client = Client(_watching(self._transport, self._tell, self.ended), cache=None)
                    self._client = await stack.enter_async_context(client)
                    await self.list()
                self._opened.set_result(None)
                await self.ended.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(_first(error))
                self._opened.exception()  # Seen, also where nobody waits any more.
            if not isinstance(error, Exception):
                raise
        finally:
            self.ended.set()


@asynccontextmanager
async def _watching(transport: Transport, tell: Tell, ended: asyncio.Event) -> AsyncIterator[Any]:
    async with transport(tell) as (read, write):
        yield _Watched(read, ended), write


def offer_of(tool: types.Tool) -> Offer:
    """The tool as we describe it."""
    hints = tool.annotations
    return Offer(
        name=tool.name,
        description=tool.description or tool.title or "",
        parameters=tool.input_schema,
        repeatable=hints is not None and bool(hints.read_only_hint) and bool(hints.idempotent_hint),
    )


def output_of(result: types.CallToolResult) -> Output:
    """The result as a text; what is neither text nor JSON is named, not shown."""
    parts = [_text(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return Output("\n".join(parts), not result.is_error)


def _text(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return resource.text
        case types.EmbeddedResource(resource=resource):
            return f"[{resource.mime_type or 'binary'} resource {resource.uri}: not shown]"
        case types.ResourceLink():
            return f"[resource {block.uri}: not shown]"
        case _:
            return f"[{block.mime_type}, {len(block.data)} characters of base64: not shown]"


def reason_of(error: BaseException, timeout_s: float) -> str:
    """Why a server could not be reached, in a sentence's part."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    return str(error) if isinstance(error, MCPError) else f"{type(error).__name__}: {error}"


def _first(error: BaseException) -> BaseException:
    """The first of a group that is not a mere cancellation."""
    while isinstance(error, BaseExceptionGroup):
        others = [each for each in error.exceptions if not isinstance(each, asyncio.CancelledError)]
        error = (others or error.exceptions)[0]
    return error
