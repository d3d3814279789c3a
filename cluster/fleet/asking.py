"""Ask every machine of a fleet for its facts at once, over ssh or here, and have each try to reach all others."""

import asyncio
import base64
import contextlib
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from actors.base.errors import Unavailable
from cluster.fleet import facts
from cluster.fleet.checks import Facts, Installed, Unreachable
from cluster.fleet.inventory import Machine

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=accept-new")
FACTS_S = 60.0
ANSWER_S = 30.0
MAX_LINE = 1 << 20
STARTING = "import base64; exec(base64.b64decode('{}').decode())"


@dataclass(frozen=True)
class Wanted:
    """Where Russet is on each machine, and the ports that it shall have there."""

    root: str
    home: str
    head_ports: Sequence[int]
    node_ports: Sequence[int]


class _Running(NamedTuple):
    process: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader


class Asked:
    """The facts program running on one machine. An asynchronous context: leaving it ends the program."""

    def __init__(self, machine: Machine, wanted: Wanted, towards: Sequence[str], ssh: Sequence[str]) -> None:
        self.machine = machine
        ports = wanted.head_ports if machine.head else wanted.node_ports
        asked = json.dumps({"root": wanted.root, "home": wanted.home, "ports": list(ports), "towards": list(towards)})
        code = base64.b64encode(Path(facts.__file__).read_bytes()).decode()
        program = ["python3", "-c", STARTING.format(code), asked]
        self._command = program if machine.local else [*machine.command(ssh), shlex.join(program)]
        self._running: _Running
        self.told: dict[str, Any] = {}

    async def __aenter__(self) -> "Asked":
        pipe = asyncio.subprocess.PIPE
        try:
            process: Any = await asyncio.create_subprocess_exec(
                *self._command, stdin=pipe, stdout=pipe, stderr=pipe, limit=MAX_LINE
            )
        except OSError as error:
            raise Unavailable(f"{self._command[0]} cannot be started: {error}") from None
        self._running = _Running(process, process.stdin, process.stdout, process.stderr)
        try:
            self.told = await self._line(FACTS_S)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._running.process
        self._running.stdin.close()
        try:
            async with asyncio.timeout(2):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def clock(self) -> tuple[float, float]:
        """How far its clock is ahead of ours, and how wrong that may be; seconds."""
        began = time.time()
        there = await self._ask("clock")
        took = time.time() - began
        return there - (began + took / 2), took / 2

    async def reach(self, addresses: Sequence[str]) -> dict[str, str]:
        """What became of connecting from there to each host:port."""
        return await self._ask(f"reach {json.dumps(list(addresses))}")

    async def _ask(self, line: str) -> Any:
        process = self._running
        try:
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
        except ConnectionError:
            raise Unavailable("it went away while it was being asked") from None
        return await self._line(ANSWER_S)

    async def _line(self, timeout_s: float) -> Any:
        process = self._running
        try:
            async with asyncio.timeout(timeout_s):
                line = await process.stdout.readline()
                said = b"" if line else await process.stderr.read(4096)
        except (TimeoutError, ValueError):
            raise Unavailable(f"no answer within {timeout_s:g} s") from None
        if not line:
            last = said.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise Unavailable(last[0][:200])
        try:
            return json.loads(line)
        except ValueError:
            raise Unavailable(f"it answered {line[:80]!r}, which is no JSON") from None


async def ask(
    machines: Sequence[Machine], wanted: Wanted, ssh: Sequence[str] = SSH
) -> tuple[list[Facts], list[Unreachable]]:
    """What every machine tells, and those that told nothing. Ports are taken for Russet's where its home says so."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(machine: Machine) -> Asked | Unreachable:
            towards = [each.address for each in machines if each is not machine]
            try:
                return await stack.enter_async_context(Asked(machine, wanted, towards, ssh))
            except Unavailable as error:
                return Unreachable(machine.address, error.message)

        begun = await asyncio.gather(*(begin(machine) for machine in machines))
        asked = [each for each in begun if isinstance(each, Asked)]
        there = {each.machine.address: each.told["port"] for each in asked}
        ended = await asyncio.gather(*(_facts(each, there) for each in asked))
    silent = [each for each in (*begun, *ended) if isinstance(each, Unreachable)]
    return [each for each in ended if isinstance(each, Facts)], silent


async def _facts(asked: Asked, listening: dict[str, int]) -> Facts | Unreachable:
    own = asked.machine.address
    others = [f"{address}:{port}" for address, port in listening.items() if address != own]
    try:
        ahead_s, error_s = await asked.clock()
        reached = await asked.reach(others)
    except Unavailable as error:
        return Unreachable(own, error.message)
    told = asked.told
    installed = told.pop("installed")
    del told["port"]
    return Facts(
        node=own,
        head=asked.machine.head,
        installed=Installed(**installed) if installed is not None else None,
        clock_ahead_s=ahead_s,
        clock_error_s=error_s,
        reached={address.rpartition(":")[0]: result for address, result in reached.items()},
        **told,
    )
