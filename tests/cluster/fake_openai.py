"""An OpenAI-compatible server of a few lines, whose every write a test decides."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
USAGE = {"prompt_tokens": 5, "completion_tokens": 6}


def chunk(text: str, finish: str | None = None) -> Body:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}


def sse(*events: Body | str) -> bytes:
    return b"".join(b"data: " + (e if isinstance(e, str) else json.dumps(e)).encode() + b"\n\n" for e in events)


ANSWER = [sse(chunk("")), sse(chunk("one two")), sse(chunk(" three four five")), sse(chunk(" six", "length"))]
ENDING = [sse({"choices": [], "usage": USAGE}, "[DONE]")]


@dataclass
class FakeServer:
    """Speaks HTTP/1.1 with chunks, as `answer` tells: a status and pieces of a body, one write each."""

    answer: Callable[[Body], tuple[int, Sequence[bytes]]] = lambda body: (200, ANSWER + ENDING)
    models: Any = field(default_factory=lambda: {"data": [{"id": "tiny"}, {"id": "other"}]})
    keep_alive: bool = True
    promises: bool = False
    """Say nothing of closing the connection, and close it all the same."""
    cut: bool = False
    """Close the connection where the body ends, without its last chunk."""
    bodies: list[Body] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    connections: int = 0
    together: int = 0
    most_together: int = 0
    hold: asyncio.Event | None = None
    """Answers to all but the first request wait for it."""
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.headers.append(head)
                if head.startswith("GET"):
                    reply = json.dumps(self.models).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(reply) + reply)
                    continue
                length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.together += 1
                self.most_together = max(self.most_together, self.together)
                self.bodies.append(body)
                status, pieces = self.answer(body)
                if self.hold is not None and len(self.bodies) > 1:
                    await self.hold.wait()
                connection = "" if self.keep_alive or self.promises else "connection: close\r\n"
                writer.write(f"HTTP/1.1 {status} X\r\n{connection}transfer-encoding: chunked\r\n\r\n".encode())
                for piece in pieces:
                    writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    await writer.drain()
                    await asyncio.sleep(0)
                self.together -= 1
                if self.cut:
                    break
                writer.write(b"0\r\n\r\n")
                if not self.keep_alive:
                    break
        writer.close()
