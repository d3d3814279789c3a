"""Runs the calls of a turn: checked, within time, beside each other; what goes wrong is a result for the model."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple

from actors.base import genai
from actors.base.errors import RussetError
from actors.base.telemetry import Telemetry
from cluster.tool_runtime.arguments import ArgumentsRefused, checked
from cluster.tool_runtime.cache import Meaning, ResultCache, Vector, key_of, meaning_of
from cluster.tool_runtime.config import ToolsConfig
from cluster.tool_runtime.offers import CallFailed
from cluster.tool_runtime.registry import Registry, ServerTool

log = logging.getLogger(__name__)
Embed = Callable[[str], Awaitable[Vector]]
"""A text's vector of length 1. May raise RussetError."""
Cached = Literal["", "exact", "meaning"]


class Call(NamedTuple):
    """What the model asked for."""

    id: str
    tool: ServerTool
    arguments: str
    """As the model wrote them."""


class Run(NamedTuple):
    """A call and what became of it."""

    call: Call
    text: str
    """What the model reads: the tool's answer, or what went wrong."""
    ok: bool
    ms: float
    cached: Cached
    """How an earlier result was found, where one was."""


class Allowance:
    """Seconds that a request may still spend on its calls."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s


class ToolRuntime:
    """Runs calls of the registry's tools."""

    def __init__(self, config: ToolsConfig, registry: Registry, embed: Embed, telemetry: Telemetry) -> None:
        self.config = config
        self.registry = registry
        self._embed = embed
        self._telemetry = telemetry
        self._cache = ResultCache(config.cache_entries, config.cache_ttl_s, config.cache_cosine)
        self._running = asyncio.Semaphore(config.max_running)
        self._calls = telemetry.counter("russet_tool_calls_total", "Calls of server-side tools", ["tool", "outcome"])
        self._seconds = telemetry.histogram("russet_tool_seconds", "Time of a call that was run", labels=["tool"])
        self._found = telemetry.counter(
            "russet_tool_cache_total", "Look-ups of results that may be used again", ["tool", "result"]
        )

    async def run(self, calls: Sequence[Call], tenant: str, allowance: Allowance, *, parallel: bool) -> list[Run]:
        """Run the calls of one turn; their results in order. Never raises for what a tool does.

        parallel: beside each other, as many as max_parallel; else one after the other. Cancelling it cancels the calls.
        """
        began_s = time.monotonic()
        until_s = began_s + allowance.left_s
        slots = asyncio.Semaphore(self.config.max_parallel if parallel else 1)

        async def one(call: Call) -> Run:
            async with slots:
                return await self._run(call, tenant, until_s)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(call)) for call in calls]
            return [task.result() for task in tasks]
        finally:
            allowance.left_s = max(0.0, allowance.left_s - (time.monotonic() - began_s))

    async def _run(self, call: Call, tenant: str, until_s: float) -> Run:
        began_s = time.monotonic()
        name = call.tool.name
        outcome: Literal["ok", "error", "refused", "failed"] = "ok"
        cached: Cached = ""
        attributes = {genai.OPERATION: "execute_tool", genai.TOOL_NAME: name, genai.TOOL_CALL_ID: call.id}
        with self._telemetry.span(f"execute_tool {name}", attributes) as span:
            try:
                arguments = checked(call.arguments, call.tool.validator, self.config.max_argument_bytes)
                text, ok, cached = await self._result(call.tool, arguments, tenant, until_s)
                outcome = "ok" if ok else "error"
            except ArgumentsRefused as error:
                text, outcome = f"Error: {error}", "refused"
            except CallFailed as error:
                text, outcome = f"Error: {error}", "failed"
            if outcome != "ok":
                span.set_attribute(genai.ERROR_TYPE, outcome)
        self._calls.labels(name, outcome).inc()
        return Run(call, text, outcome == "ok", (time.monotonic() - began_s) * 1e3, cached)

    async def _result(
        self, tool: ServerTool, arguments: dict[str, Any], tenant: str, until_s: float
    ) -> tuple[str, bool, Cached]:
        if tool.reuse == "no":
            return *await self._called(tool, arguments, until_s), ""
        key = key_of(tenant, tool.name, arguments)
        frame, vector = "", None
        found, how = self._cache.exact(key), "exact"
        if found is None and tool.reuse == "meaning":
            frame, vector = await self._meaning(meaning_of(arguments))
            if vector is not None:
                found, how = self._cache.alike(key, frame, vector), "meaning"
        self._found.labels(tool.name, how if found is not None else "miss").inc()
        if found is not None:
            return found, True, how
        text, ok = await self._called(tool, arguments, until_s)
        if ok:
            self._cache.put(key, text, frame, vector)
        return text, ok, ""

    async def _meaning(self, meaning: Meaning) -> tuple[str, Vector | None]:
        """No vector where there are no words or they cannot be embedded now: then only the same arguments are found."""
        if not meaning.text:
            return meaning.frame, None
        try:
            return meaning.frame, await self._embed(meaning.text)
        except RussetError as error:
            log.warning("arguments could not be embedded: %s", error)
            return meaning.frame, None

    async def _called(self, tool: ServerTool, arguments: dict[str, Any], until_s: float) -> tuple[str, bool]:
        """Raises CallFailed."""
        if not await self._slot(until_s):
            raise CallFailed("it was not run: the time that this request may spend on tools is over")
        began_s = time.monotonic()
        try:
            timeout_s = min(max(until_s - began_s, 0.0), self.config.call_timeout_s)
            output = await tool.connection.call(tool.own_name, arguments, timeout_s)
        finally:
            self._running.release()
            self._seconds.labels(tool.name).observe(time.monotonic() - began_s)
        return shortened(output.text, self.config.max_output_chars), output.ok

    async def _slot(self, until_s: float) -> bool:
        """Take one of the gateway's places for running calls; False where none was free in time."""
        left_s = until_s - time.monotonic()
        try:
            if left_s > 0:
                await asyncio.wait_for(self._running.acquire(), left_s)
        except TimeoutError:
            return False
        return left_s > 0


def shortened(text: str, most: int) -> str:
    """The first `most` characters of a result, with a note where there are more."""
    if len(text) <= most:
        return text
    return f"{text[:most]}\n[cut here: the first {most} of {len(text)} characters]"
