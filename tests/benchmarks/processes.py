"""Child processes of a benchmark: started with a private home, awaited, measured, and always ended."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import psutil

from actors.base.errors import Unavailable
from cluster.home import Home
from cluster.ray_process import free_port

START_TIMEOUT_S = 120.0


@contextmanager
def private_home() -> Generator[Path, None, None]:
    """A home with an empty russet.toml, short enough for unix sockets, gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="rb-", dir="/tmp")).resolve()
    (path / "russet.toml").touch()
    yield path
    shutil.rmtree(Home(path).run, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without settings of Russet's, so that a developer's do not show in the figures."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RUSSET_")} | dict(more or {})


@asynccontextmanager
async def server(
    command: Sequence[str | Path], ready_url: str, log: Path, environ: Mapping[str, str] | None = None
) -> AsyncGenerator[psutil.Process, None]:
    """Run `command` until the block ends; enter it once `ready_url` answers 200. Its output goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=output, env=environment(environ)
        )
    try:
        await until_ready(ready_url, process, log)
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def output_of(command: Sequence[str]) -> str:
    """What `command` prints before it ends. Raises Unavailable with the end of its errors where it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment()
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Unavailable(f"{command} ended with {process.returncode}: {errors.decode(errors='replace')[-1000:]}")
    return output.decode()


@contextmanager
def spinning() -> Generator[None, None, None]:
    """A foreign process that keeps one core busy and does nothing else, for as long as the block runs."""
    script = "print(flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment())
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def peak_memory_mb(process: psutil.Process) -> list[float]:
    """The most megabytes that it ever had resident, in a list of its own; empty where the system does not say."""
    status = Path(f"/proc/{process.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")]


async def until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when `url` answers 200. Raises Unavailable with the end of `log` where `process` ends first."""
    async with httpx.AsyncClient(timeout=5) as http, asyncio.timeout(START_TIMEOUT_S):
        while process.poll() is None:
            try:
                if (await http.get(url)).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # nothing listens yet
            await asyncio.sleep(0.1)
    raise Unavailable(f"{process.args!r} ended with {process.returncode}: {tail(log)}")


def tail(log: Path) -> str:
    """The last thing it said."""
    return log.read_text(errors="replace")[-1000:]


@asynccontextmanager
async def russet_serve(**settings: str) -> AsyncGenerator[tuple[str, psutil.Process], None]:
    """`russet serve` in a process and a home of its own: its base URL and the process.

    `settings` ("__" is a dot) differ from the default.
    """
    with private_home() as home:
        async with serve_in(home, **settings) as running:
            yield running


@asynccontextmanager
async def serve_in(home: Path, **settings: str) -> AsyncGenerator[tuple[str, psutil.Process], None]:
    """The same in a home that stays."""
    port, grpc_port = free_port(), free_port()
    command = [
        Path(sys.executable).with_name("russet"), "serve", "--config", home / "russet.toml",
        "--set", f"home={home}", "--port", str(port), "--grpc-port", str(grpc_port),
        *(part for name, value in settings.items() for part in ("--set", f"{name.replace('__', '.')}={value}")),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    async with server(command, f"{url}/ready", home / "serve.log") as process:
        yield url, process
