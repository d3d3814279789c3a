"""A replica in a process of its own, for a model that is loaded while `russet serve` answers: worker and scheduler.

    cluster.local_models ── stdin: one line of JSON, then nothing until its end ──> this process
                         <── stdout: one line of JSON, once it is ready or has failed ──

It listens on unix sockets in a directory of the parent's. The end of stdin ends it, so it never outlives the parent. Of
one that is gone nothing is left: that is why a model is loaded here and not in a thread.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import sys
from pathlib import Path

LOADING_NICE = 10
"""Loading gives way to what is served."""
CAP_SYS_NICE = 1 << 23


def may_return() -> bool:
    """Whether a process that made itself nicer may take that back: on Linux, and of those who are privileged."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & CAP_SYS_NICE)
    return False


NICE = __name__ == "__main__" and may_return()
if NICE:
    os.nice(LOADING_NICE)  # before what follows is imported, which is work too

from actors.base.errors import RussetError  # noqa: E402
from cluster import compose  # noqa: E402
from cluster.compose import Listen, Serving, Target  # noqa: E402
from cluster.config import Config, ModelConfig  # noqa: E402
from cluster.logs import TEXT  # noqa: E402


def socket_of(run: Path, service: str) -> Path:
    """The unix socket of a service: ids of models may be longer than the path of a socket."""
    return run / f"{hashlib.sha256(service.encode()).hexdigest()[:16]}.sock"


class ProcessDirectory:
    """The services of this process, and by their sockets those of the parent."""

    node = "local"

    def __init__(self, run: Path) -> None:
        self._run = run
        self.published: dict[str, list[str]] = {}

    def name(self, service: str) -> str:
        """As it is called: the process has one cluster."""
        return service

    def listen(self, service: str) -> Listen:
        """Its unix socket."""
        return Listen(unix=str(socket_of(self._run, service)))

    def find(self, service: str) -> Target:
        """In this process, or by its socket."""
        return [f"inproc:{service}", f"unix:{socket_of(self._run, service)}"]

    async def secure(self) -> None:
        """Nothing to secure: no actor listens on TCP."""

    async def upkeep(self) -> None:
        """Nothing to keep up."""

    async def publish(self, service: str, addresses: list[str]) -> None:
        """Remember or forget it."""
        self.published.pop(service, None)
        if addresses:
            self.published[service] = addresses

    async def services(self) -> dict[str, list[str]]:
        """Those of this process."""
        return dict(self.published)


async def main() -> None:
    """Serve until stdin ends. Exit code 1 where the replica cannot be started, or its engine fails."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    asked = json.loads(await reader.readline())
    ended = asyncio.create_task(reader.read())
    running: list[Serving] = []
    starting = asyncio.create_task(_start(asked, running))
    try:
        await asyncio.wait([starting, ended], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        directory = await starting
        _say({"ready": directory.published})
        failed = asyncio.create_task(running[0].service.failed())
        await asyncio.wait([failed, ended], return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            logging.getLogger(__name__).critical("the engine failed: this replica ends", exc_info=failed.result())
            os._exit(1)
    except Exception as error:
        reason = error.message if isinstance(error, RussetError) else f"{type(error).__name__}: {error}"
        logging.getLogger(__name__).exception("the replica did not start")
        _say({"failed": reason})
        sys.exit(1)
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        while running:
            await running.pop().stop()


async def _start(asked: dict, running: list[Serving]) -> ProcessDirectory:
    config, model = Config.model_validate(asked["config"]), ModelConfig.model_validate(asked["model"])
    directory = ProcessDirectory(Path(asked["run"]))
    running.append(await compose.serve_worker(config, model, asked["replica"], directory))
    if NICE:
        for thread in os.listdir("/proc/self/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), os.getpriority(os.PRIO_PROCESS, int(thread)) - LOADING_NICE)
    running.append(await compose.serve_scheduler(config, asked["replica"], directory))
    return directory


def _say(what: dict) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format=TEXT)
    asyncio.run(main())
