"""The streams that a session reads and writes: a program's input and output, or HTTP; no message without a bound.

The SDK's own stdio client reads a line whole whatever its length, copying it anew with each piece: a tool that answers
with much would hold up every stream of the gateway. Everything else of the protocol is the SDK's.
"""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import httpx2
import mcp_types as types
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.os.posix.utilities import terminate_posix_process_tree
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

GRACE_S = 2.0
"""How long a program may take to end by itself once its input is closed; as long again after SIGTERM."""
Tell = Callable[[str], None]
"""Takes the reason for which a transport ends."""
Transport = Callable[[Tell], AbstractAsyncContextManager[Any]]


def stdio_transport(command: list[str], env: dict[str, str], directory: str | None, most_bytes: int) -> Transport:
    """Starts a program in a process group of its own and talks over its standard input and output, a message a line.

    It gets `env`, and of the gateway's environment only what names the user, their home, shell, terminal and PATH. What
    it says on standard error joins our own. At the end its input is closed, then its group terminated, then killed.
    """

    @asynccontextmanager
    async def opened(tell: Tell) -> AsyncIterator[Any]:
        process = await anyio.open_process(
            command,
            env=get_default_environment() | env,
            cwd=directory,
            stderr=sys.__stderr__,
            start_new_session=True,
        )
        # Nothing is awaited before the group is entered: a cancellation would leave the program running.
        arrived, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as group:
            group.start_soon(_read, process, arrived, most_bytes, tell)
            group.start_soon(_write, process, to_send)
            try:
                yield incoming, outgoing
            finally:
                with anyio.CancelScope(shield=True):
                    incoming.close()
                    outgoing.close()
                    await _stop(process)
                group.cancel_scope.cancel()

    return opened


async def _read(process: anyio.abc.Process, arrived: Any, most_bytes: int, tell: Tell) -> None:
    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    async with arrived:
        try:
            while True:
                line = await lines.receive_until(b"\n", most_bytes)
                with suppress(ValidationError):  # What a program prints beside the protocol is not for us.
                    message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                    await arrived.send(SessionMessage(message))
        except anyio.DelimiterNotFound:
            tell(f"its server was ended for a message of more than {most_bytes} bytes")
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return


async def _write(process: anyio.abc.Process, to_send: Any) -> None:
    assert process.stdin is not None
    async with to_send:
        async for each in to_send:
            data = each.message.model_dump_json(by_alias=True, exclude_unset=True) + "\n"
            try:
                await process.stdin.send(data.encode())
            except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
                return  # It ended; the reader sees it too.


async def _stop(process: anyio.abc.Process) -> None:
    assert process.stdin is not None
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.aclose()
    with anyio.move_on_after(GRACE_S):
        # Not wait(), which also waits for whoever else holds the pipes.
        while process.returncode is None:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    await terminate_posix_process_tree(process, GRACE_S)
    with anyio.move_on_after(GRACE_S):
        await process.aclose()


def http_transport(url: str, headers: dict[str, str], timeout_s: float, most_bytes: int) -> Transport:
    """Streamable HTTP. Redirects that leave the server are not followed, so headers go nowhere else.

    timeout_s: for connecting and sending; how long an answer may take is up to who calls.
    """

    async def bound(response: httpx2.Response) -> None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream, most_bytes)

    @asynccontextmanager
    async def opened(tell: Tell) -> AsyncIterator[Any]:
        timeout = httpx2.Timeout(timeout_s, read=None)
        async with (
            httpx2.AsyncClient(headers=headers, timeout=timeout, event_hooks={"response": [bound]}) as client,
            streamable_http_client(url, http_client=client, max_sse_event_size=most_bytes) as streams,
        ):
            yield streams

    return opened


class _Bounded(httpx2.AsyncByteStream):
    """A body up to a size. Events are bounded one by one, by the SDK."""

    def __init__(self, stream: httpx2.AsyncByteStream, most_bytes: int) -> None:
        self._stream = stream
        self._most = most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > self._most:
                raise httpx2.StreamError(f"the answer has more than {self._most} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
