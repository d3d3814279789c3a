"""llama.cpp's own benchmarks and server, on the same GGUF file with as many threads, built by install-peers."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from actors.base.errors import Unavailable
from cluster.ray_process import free_port
from tests.benchmarks.processes import output_of, private_home, server

NAME = "llama.cpp"
PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server")
DECODED = 32
"""Tokens that each row decodes in one measurement."""


@dataclass(frozen=True)
class Llama:
    """llama.cpp's programs in `folder`, run on one GGUF file with `threads` threads."""

    folder: Path
    model: Path
    threads: int

    def missing(self) -> str | None:
        """How to get what is not there."""
        absent = [name for name in PROGRAMS if not (self.folder / name).is_file()]
        return (
            f"no {absent[0]} in {self.folder}: run tests/benchmarks/install-peers, or give --llama" if absent else None
        )

    async def decode(self, prompt: int, batches: Sequence[int], decoded: int = DECODED) -> dict[int, float]:
        """Tokens per second of all rows together, by number of rows, after a prompt of `prompt` tokens.

        The prompt is computed once and its KV copied to each row, which attends to a copy of its own: what decoding
        costs is the same as after as many prompts. Logits are computed, nothing is sampled.
        """
        context = max(batches) * (prompt + decoded)
        lines = await self._lines(
            "llama-batched-bench", "-c", context, "-npp", prompt, "-ntg", decoded,
            "-npl", ",".join(map(str, batches)), "-pps", "--output-format", "jsonl",
        )  # fmt: skip
        return {int(line["pl"]): line["speed_tg"] for line in lines}

    async def prefill(self, tokens: int) -> float:
        """Tokens per second of one prompt, after a warm-up."""
        (line,) = await self._lines("llama-bench", "-p", tokens, "-n", 0, "-r", 1, "-o", "jsonl")
        return line["avg_ts"]

    async def _lines(self, program: str, *arguments: object) -> list[dict[str, float]]:
        command = [self.folder / program, "-m", self.model, "-t", self.threads, *arguments]
        output = await output_of([str(word) for word in command])
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        if not lines:
            raise Unavailable(f"{program} printed no figures: {output[-500:]!r}")
        return lines

    @asynccontextmanager
    async def server(self, slots: int, context: int) -> AsyncGenerator[tuple[str, psutil.Process], None]:
        """llama-server with `slots` rows of `context` tokens, batched continuously: its base URL and its process.

        All rows share one KV buffer, as by its defaults, which here prefills faster than a buffer each. Its cache of
        earlier prompts is off: no two prompts here share what it could save.
        """
        port = free_port()
        command = [
            self.folder / "llama-server", "-m", self.model, "-t", self.threads, "-np", slots, "-c", slots * context,
            "-kvu", "--cache-ram", 0, "--no-ui", "--host", "127.0.0.1", "--port", port,
        ]  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        with private_home() as home:
            async with server([str(word) for word in command], f"{url}/health", home / "llama.log") as process:
                yield url, process
