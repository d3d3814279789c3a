"""Instrument: every service of Russet's but with a worker that computes nothing, so that only their own cost is left.

    python -m tests.benchmarks.instant FOLDER ROLE [ROLE ...] [--step 0.01] [--rows 64]

runs the named roles in one process until its standard input closes; worker:2 and scheduler:2 are those of a third
replica. With a long step and few rows the worker is a model of known speed, that costs the machine nothing. Roles of
one process reach each other in process, others over unix sockets in FOLDER, as `russet serve` and Ray's actors do.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from actors.base.server import Server
from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from cluster import compose
from cluster.compose import Listen, Target
from cluster.config import Config, load
from protos.gen import worker_pb2, worker_pb2_grpc

ROLES = ("memory", "router", "learner", "worker", "scheduler", "gateway")
STEP_S = 0.01
"""Pace of the steps after a request's first: 16 rows then make 1,600 tokens/s."""
PAGES, PAGE_SIZE, MAX_ROWS, MAX_STEP_TOKENS = 4096, 16, 64, 512


@dataclass(frozen=True)
class Speed:
    """How fast a worker is: seconds between its steps, and how many rows a step has at most."""

    step_s: float = STEP_S
    rows: int = MAX_ROWS


@dataclass
class Row:
    """A row: how many tokens it has and may have, and how many of them its lease lets into the KV."""

    tokens: int
    max_length: int
    computed: int = 0
    limit: int = 0


class InstantWorker(worker_pb2_grpc.WorkerServicer):
    """Obeys leases (worker.proto) and says `token` for ever: prompts in no time, then a token per row and step."""

    def __init__(
        self, model: worker_pb2.ModelInfo, vocabulary: worker_pb2.Vocabulary, token: int, speed: Speed = Speed()
    ) -> None:
        self._model, self._vocabulary, self._token, self._speed = model, vocabulary, token, speed
        self._epoch = 0
        self._forget()

    def _forget(self) -> None:
        self._epoch += 1
        self._rows: dict[int, Row] = {}
        self._plan_id = self._reported = self._steps = 0
        self._stirred = asyncio.Event()

    async def Hello(self, request: worker_pb2.HelloRequest, context: Any) -> worker_pb2.HelloReply:
        """A new epoch."""
        self._forget()
        return worker_pb2.HelloReply(
            epoch=self._epoch, model=self._model, vocabulary=self._vocabulary, pages=PAGES, page_size=PAGE_SIZE,
            max_step_tokens=MAX_STEP_TOKENS, max_rows=self._speed.rows, isa_class="instant", pid=os.getpid(),
        )  # fmt: skip

    async def Run(
        self, request_iterator: AsyncIterator[worker_pb2.Plan], context: Any
    ) -> AsyncIterator[worker_pb2.StepResult]:
        """A result at once when a plan came while nothing ran, then one each step."""
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while not reader.done():
                result = self._step()
                if result is not None:
                    yield result
                if result is not None and result.row:
                    await asyncio.sleep(self._speed.step_s)
                else:
                    await self._stirred.wait()
                    self._stirred.clear()
            reader.result()
        finally:
            reader.cancel()

    async def _read(self, plans: AsyncIterator[worker_pb2.Plan]) -> None:
        try:
            async for plan in plans:
                for start in plan.start:
                    self._rows[start.row] = Row(len(start.token_ids), start.max_length, start.cached_tokens)
                kept = {row: self._rows[row] for row in plan.row if row in self._rows}
                for row, limit in zip(plan.row, plan.limit, strict=True):
                    if row in kept:
                        kept[row].limit = limit
                self._rows, self._plan_id = kept, plan.plan_id
                self._stirred.set()
        finally:
            self._stirred.set()

    def _step(self) -> worker_pb2.StepResult | None:
        """What a step of all rows whose lease lasts has brought; None where there is nothing to say."""
        result = worker_pb2.StepResult(epoch=self._epoch, plan_id=self._plan_id, step=self._steps)
        for number, row in list(self._rows.items()):
            if row.computed >= row.limit:
                continue
            row.computed = min(row.limit, row.tokens)
            draws = row.computed == row.tokens
            row.tokens += draws
            ended = row.tokens == row.max_length
            result.row.append(number)
            result.computed.append(row.computed)
            result.token_count.append(int(draws))
            result.end.append(worker_pb2.ROW_LENGTH if ended else worker_pb2.ROW_RUNNING)
            if draws:
                result.token_ids.append(self._token)
            if ended:
                del self._rows[number]
        if result.row:
            self._steps += 1
            result.step, result.decode_tokens = self._steps, len(result.token_ids)
        elif self._plan_id == self._reported:
            return None
        self._reported = self._plan_id
        return result


class FolderDirectory:
    """Services of several processes find each other by the sockets in one folder."""

    node = "local"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def name(self, service: str) -> str:
        """A process runs one cluster."""
        return service

    def listen(self, service: str) -> Listen:
        """A socket in the folder."""
        return Listen(unix=self._socket(service))

    def find(self, service: str) -> Target:
        """In this process where it is there, else over its socket."""

        async def addresses() -> list[str]:
            return self._addresses(service)

        return addresses

    async def secure(self) -> None:
        """Nothing to secure: no actor listens on TCP."""

    async def upkeep(self) -> None:
        """Nothing to keep up."""

    async def publish(self, service: str, addresses: list[str]) -> None:
        """The socket says it."""

    async def services(self) -> dict[str, list[str]]:
        """Whoever has a socket."""
        names = [path.stem for path in self._folder.glob("*.sock")]
        return {name: self._addresses(name) for name in names}

    def _socket(self, service: str) -> str:
        return str(self._folder / f"{service}.sock")

    def _addresses(self, service: str) -> list[str]:
        return [f"inproc:{service}", f"unix:{self._socket(service)}"]


async def start(role: str, config: Config, directory: FolderDirectory, speed: Speed) -> Any:
    """Start one role; what it returns has an async stop()."""
    name, _, number = role.partition(":")
    replica = f"instant-{number or 0}"
    match name:
        case "memory":
            return await compose.serve_memory(config, directory)
        case "router":
            return await compose.serve_router(config, directory)
        case "learner":
            return await compose.serve_learner(config, directory)
        case "scheduler":
            return await compose.serve_scheduler(config, replica, directory)
        case "gateway":
            return await compose.serve_gateway(config, "0", directory, None)
    model = load_model(config.models[0].model)
    token = Vocabulary(model.vocabulary).encode(" time")[0]
    service = f"worker-{replica}"
    server = Server(
        directory.name(service),
        [(worker_pb2_grpc.add_WorkerServicer_to_server, InstantWorker(model.info, model.vocabulary, token, speed))],
        unix=directory.listen(service).unix,
    )
    await server.start()
    return server


def settings(folder: Path) -> Config:
    """Defaults, at home in the folder, on free ports."""
    free = {"gateway.port": 0, "gateway.grpc_port": 0}
    return load(folder / "russet.toml", {"home": folder, **free}, environ={})


async def serve(folder: Path, roles: list[str], speed: Speed) -> None:
    """Run `roles` until standard input closes. The gateway's URL is printed as a line of JSON."""
    config, directory = settings(folder), FolderDirectory(folder)
    running = []
    try:
        for role in roles:
            running.append(await start(role, config, directory, speed))
            if role == "gateway":
                print(json.dumps({"http": running[-1].service.addresses.http}), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)
    finally:
        for serving in reversed(running):
            await serving.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("roles", nargs="+")
    parser.add_argument("--step", type=float, default=STEP_S, help="seconds between a worker's steps")
    parser.add_argument("--rows", type=int, default=MAX_ROWS, help="rows of a worker's step at most")
    chosen = parser.parse_args()
    uvloop.run(serve(chosen.folder, chosen.roles, Speed(chosen.step, chosen.rows)))
