"""uvicorn's connections, with what it leaves open closed: a request's head is bounded in size and in time.

Without that, whoever connects could hold memory and sockets before any key was asked for ("slow loris").
"""

import asyncio
import json
import logging

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)
MAX_HEAD_BYTES = 64 << 10
"""Of request line and headers."""


class BoundedConnection(HttpToolsProtocol):
    """A head that is too long is answered with 431, one that does not come in time with 408; then it closes."""

    head_timeout_s = 10.0
    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection that says nothing is given up as one that says it slowly."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; stop where the head goes on for too long."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the headers have more than {MAX_HEAD_BYTES} bytes, which is all that is accepted")

    def on_message_begin(self) -> None:
        """A request begins; of a pipelined one the rest of the last chunk counts too, which is little."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._wait()

    def on_headers_complete(self) -> None:
        """From here on the body's own bounds hold."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_timeout_s, self._late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(408, f"the request's headers did not arrive within {self.head_timeout_s:g} s")

    def _refuse(self, status: int, message: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        log.info("gave up a connection: %s", message)
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "bad_request"}
        body = json.dumps({"error": error}).encode()
        reason = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}[status]
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, reason, len(body), body)
        )
        self.transport.close()


def bounded(head_timeout_s: float) -> type[asyncio.Protocol]:
    """The class with this time for a head, as uvicorn takes it."""
    return type("Connection", (BoundedConnection,), {"head_timeout_s": head_timeout_s})
