"""A real browser for tests: headless Chromium, told what to do over its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import websockets

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""None where this machine has no such browser; tests/install-tools installs Debian's."""


class Page:
    """One tab. What the page complains of (errors, refused by its policy) is in `complaints`."""

    def __init__(self, socket: websockets.ClientConnection, session: str) -> None:
        self._socket = socket
        self._session = session
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self.complaints: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def call(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol."""
        number = next(self._ids)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        asked = {"id": number, "method": method, "params": parameters, "sessionId": self._session}
        await self._socket.send(json.dumps(asked))
        async with asyncio.timeout(30):
            return await reply

    async def look(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        reply = await self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    async def until(self, condition: str) -> None:
        """Return when a JavaScript expression is true: the page's own changes are the event."""
        waiting = f"""new Promise((done) => {{
            const check = () => ({condition}) && (watch.disconnect(), done(true));
            const watch = new MutationObserver(check);
            watch.observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
            check();
        }})"""
        await self.look(waiting)

    async def open(self, url: str) -> None:
        """Go there, and return when its scripts have begun."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    async def picture(self, width: int, height: int, *, dark: bool = False) -> bytes:
        """A PNG of the page in a window of that size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        return base64.b64decode((await self.call("Page.captureScreenshot", captureBeyondViewport=True))["data"])

    async def close(self) -> None:
        """Hear no more of it."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message)
            if (reply := self._replies.pop(told.get("id"), None)) is not None:
                if "error" in told:
                    reply.set_exception(AssertionError(told["error"]))
                else:
                    reply.set_result(told["result"])
            elif told.get("method") == "Log.entryAdded":
                entry = told["params"]["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
            elif told.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(told["params"]["exceptionDetails"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A tab of a browser with a profile of its own; both are gone afterwards."""
    assert CHROMIUM is not None
    profile = Path(tempfile.mkdtemp(prefix="rt-browser-", dir="/tmp"))
    flags = [
        "--headless",
        "--no-first-run",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ]
    # Chromium's sandbox needs rights that root in a container does not have; the page is our own.
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *flags,
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            line = b""
            while b"DevTools listening on " not in line:
                line = await process.stderr.readline()
                assert line, "the browser ended without a word of where it listens"
        drain = asyncio.create_task(process.stderr.read())
        async with websockets.connect(line.decode().split()[-1], max_size=64 << 20) as socket:
            await socket.send(json.dumps({"id": 0, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
            target = json.loads(await socket.recv())["result"]["targetId"]
            parameters = {"targetId": target, "flatten": True}
            await socket.send(json.dumps({"id": 0, "method": "Target.attachToTarget", "params": parameters}))
            told: dict[str, Any] = {}
            while told.get("id") != 0:
                told = json.loads(await socket.recv())
            page = Page(socket, told["result"]["sessionId"])
            for domain in ("Page", "Runtime", "Log"):
                await page.call(f"{domain}.enable")
            yield page
            await page.close()
        drain.cancel()
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)
