"""A streaming HTTP client that costs a load generator little: on a shared machine its CPU is the server's.

httpx spends about 180 us on a server-sent event, this 50 (one core, 16 streams), which is less than the server does.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from urllib.parse import urlsplit

import httptools

from actors.base.errors import InvalidArgument, Unavailable

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 600.0
"""Longest wait for the next bytes: a slow server may prefill for minutes."""


class Answer:
    """One response as it is parsed; httptools calls the on_ methods."""

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.complete = False
        self.reusable = False
        """Whether the connection takes another request; known with the end."""
        self.parser = httptools.HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        """A piece of the body, without its framing."""
        self.body.append(data)

    def on_message_complete(self) -> None:
        """The body has ended."""
        self.complete, self.reusable = True, self.parser.should_keep_alive()

    def take(self) -> bytes:
        """The body that came since the last call."""
        body, self.body = b"".join(self.body), []
        return body


class Connection:
    """A kept-alive connection to one server, for one request at a time."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """`url`: http or https, with or without /v1 at its end."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgument(f"url is {url!r}; accepted are http://host:port and https://host:port", param="url")
        self._host, self._secure = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._head = f"host: {parts.netloc}\r\ncontent-type: application/json\r\n"
        if key:
            self._head += f"authorization: Bearer {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield (status, bytes of the body) as the answer arrives. Raises Unavailable where the connection fails."""
        answer = Answer()
        head = f"POST {self._prefix}{path} HTTP/1.1\r\n{self._head}content-length: {len(body)}\r\n\r\n"
        try:
            data = await self._send(head.encode() + body)
            while data:
                answer.parser.feed_data(data)
                if piece := answer.take():
                    yield answer.parser.get_status_code(), piece
                if answer.complete:
                    break
                data = await self._read()  # a body without length or chunks ends with the connection
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            raise Unavailable(f"{self._host}:{self._port}: {error or type(error).__name__}") from None
        finally:
            if not answer.reusable:
                await self.close()

    async def close(self) -> None:
        """Close it; the next request opens another."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            with suppress(OSError):
                await streams[1].wait_closed()

    async def _send(self, request: bytes) -> bytes:
        """Send it; the first bytes of the answer, none where the connection ends before them.

        A server may close a kept connection between two requests (RFC 9112, 9.3.1; llama-server does after each
        stream, having promised not to): what is unanswered on one is sent on a new one, once.
        """
        if self._streams is not None:
            with suppress(ConnectionError):
                self._streams[1].write(request)
                if data := await self._read():
                    return data
            await self.close()
        self._streams = await self._open()
        self._streams[1].write(request)
        return await self._read()

    async def _read(self) -> bytes:
        assert self._streams is not None
        async with asyncio.timeout(SILENCE_TIMEOUT_S):
            return await self._streams[0].read(1 << 16)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncio.open_connection(self._host, self._port, ssl=self._secure or None)
