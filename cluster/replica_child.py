"""The parent's side of cluster.replica_process: start it, hear that it is ready, end it."""

import asyncio
import json
import sys
from pathlib import Path

from actors.base.errors import Unavailable
from cluster.config import Config, ModelConfig

STOP_TIMEOUT_S = 15.0
"""For a worker to finish what it writes to disk."""


class Child:
    """One process; start() once."""

    def __init__(self, run: Path, log: Path) -> None:
        """run: the directory of the sockets. log: the file that it writes to."""
        self._run = run
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def start(self, config: Config, model: ModelConfig, replica: str) -> dict[str, list[str]]:
        """Start it and load the model; its services and their addresses, once it is ready.

        Raises Unavailable with its reason where it cannot be.
        """
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cluster.replica_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "it was asked for"
        assert stdout is not None, "it was asked for"
        asked = {
            "config": json.loads(config.model_dump_json(context={"secrets": True})),
            "model": json.loads(model.model_dump_json()),
            "replica": replica,
            "run": str(self._run),
        }
        stdin.write(json.dumps(asked).encode() + b"\n")
        said = await stdout.readline()
        if not said:
            code = await self._process.wait()
            raise Unavailable(f"the process of {replica} ended with code {code}; {self._log} has more")
        told = json.loads(said)
        if "failed" in told:
            raise Unavailable(told["failed"])
        return told["ready"]

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None, "started"
        return await self._process.wait()

    async def stop(self) -> None:
        """End it, and return when it is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None, "it was asked for"
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
