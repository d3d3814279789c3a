"""Start a cluster, load it, kill its processes at random, and tell what that cost.

    python -m tests.soak                        15 minutes, 50 kills, 16 streams over 2 replicas
    python -m tests.soak --minutes 2 --kills 5  a short one

Every answer is compared with the one that the same request had before the load: deterministic mode promises that they
are equal. Ends with 1 where a request failed, an answer differs, a page, process or request is left over, or memory
grew.
"""

import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cluster.home import Home
from cluster.lifecycle import ClusterState, free_port, read_state
from cluster.load_client import Connection
from tests.soak import streams, watch
from tests.soak.asked import REQUESTS
from tests.soak.streams import Tally
from tests.soak.watch import Kill

MOST_GROWTH = 0.02
SAMPLE_S = 5.0
SETTLE_S = 60.0
console = Console(stderr=True)


def main(
    minutes: Annotated[float, typer.Option(help="Of load")] = 15.0,
    kills: Annotated[int, typer.Option(help="Processes killed in that time")] = 50,
    clients: Annotated[int, typer.Option(help="Streams at once")] = 16,
    replicas: Annotated[int, typer.Option(help="Of the model")] = 2,
    seed: Annotated[int, typer.Option(help="Of what is asked and killed when")] = 0,
    kv_memory: Annotated[int, typer.Option(help="KV memory of a replica, bytes")] = 256 << 20,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output")] = False,
) -> None:
    """Soak a cluster of this machine."""
    home = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))
    settings = {
        "deterministic": True, "models.0.replicas": replicas, "models.0.kv_memory_bytes": kv_memory,
        "gateway.port": free_port(), "gateway.grpc_port": free_port(),
        "ray.port": 0, "ray.dashboard_port": 0, "ray.metrics_port": 0,
    }  # fmt: skip
    chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    started = watch.russet(home, "up", "--ask", "", *chosen)
    if started.returncode:
        sys.exit(started.stderr)
    try:
        state = read_state(Home(home))
        assert state is not None
        result = asyncio.run(soak(state, minutes * 60, kills, clients, seed))
    finally:
        watch.russet(home, "down")
        shutil.rmtree(Home(home).run, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)
    result["orphans"] = len(watch.resident(state.ray_pid))
    wrong = verdict(result)
    if as_json:
        print(json.dumps(result))
    else:
        console.print(table_of(result))
        for line in [*result["wrong"], *wrong]:
            console.print(f"[red]✗[/] {line}", markup=True, highlight=False, soft_wrap=True)
    sys.exit(1 if wrong else 0)


async def soak(state: ClusterState, seconds: float, kills: int, clients: int, seed: int) -> dict[str, Any]:
    """Load, kill, let it settle, and say what came of it."""
    chance, tally = random.Random(seed), Tally()
    connection = Connection(state.http)
    known = {name: (await streams.ask(connection, *request))[0] for name, request in REQUESTS.items()}
    await connection.close()
    began = time.monotonic()
    until = began + seconds
    # Spread over the time but for its last tenth, in which what was killed last comes back.
    moments = sorted(began + chance.uniform(0.02, 0.9) * seconds for _ in range(kills))
    done: list[Kill] = []
    memory: list[tuple[float, dict[str, float]]] = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("soaking", total=seconds)

        async def watching() -> None:
            while (now := time.monotonic()) < until:
                held = await asyncio.to_thread(watch.resident, state.ray_pid)
                memory.append((now, held))
                said = f"{sum(tally.done.values())} answers, {len(done)} kills, {tally.failed} failed"
                progress.update(bar, completed=now - began, description=said)
                await asyncio.sleep(SAMPLE_S)

        async def killing() -> None:
            for moment in moments:
                await asyncio.sleep(max(0.0, moment - time.monotonic()))
                while (one := watch.kill(await asyncio.to_thread(watch.actors, state.http), chance)) is None:
                    await asyncio.sleep(0.2)
                done.append(one)

        load = [
            streams.run(state.http, known, REQUESTS, tally, until, random.Random(seed * 1000 + client))
            for client in range(clients)
        ]
        await asyncio.gather(watching(), killing(), *load)
    left = await settled(state.http)
    pauses = watch.pauses(done, [(each.ended_s, each.lasted_s) for each in tally.silences])
    spare = [pause for each, pause in zip(done, pauses, strict=True) if each.spare]
    roles = sorted({role for _, held in memory for role in held})
    return {
        "seconds": round(time.monotonic() - began, 1),
        "answers": dict(sorted(tally.done.items())),
        "tokens_per_s": round(tally.tokens / seconds, 1),
        "failed": tally.failed,
        "wrong": tally.wrong,
        "kills": {role: sum(each.role == role for each in done) for role in watch.VICTIMS},
        "pause_with_spare_s": {
            "p50": _percentile(spare, 50),
            "p95": _percentile(spare, 95),
            "max": max(spare, default=0),
        },
        "pause_s": {"p50": _percentile(pauses, 50), "p95": _percentile(pauses, 95), "max": max(pauses, default=0)},
        "left": left,
        "memory_mb": {role: [round(held.get(role, 0) / 1e6) for _, held in memory][-1] for role in roles},
        "memory_growth": round(watch.growth((at, sum(held.values())) for at, held in memory), 4),
    }


async def settled(url: str) -> dict[str, float]:
    """What is left over once nothing is asked any more; waits up to SETTLE_S for it to be nothing."""
    deadline = time.monotonic() + SETTLE_S
    while (left := await asyncio.to_thread(watch.leaked, url)) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return left


def verdict(result: dict[str, Any]) -> list[str]:
    """What is not as it has to be."""
    wrong = []
    if result["failed"]:
        wrong.append(f"{result['failed']} requests failed or were answered otherwise than before")
    if result["left"]:
        wrong.append(f"held though nothing runs: {result['left']}")
    if result["orphans"]:
        wrong.append(f"{result['orphans']} processes outlived `russet down`")
    if result["memory_growth"] > MOST_GROWTH:
        wrong.append(f"memory grew by {result['memory_growth']:.1%}; at most {MOST_GROWTH:.0%}")
    return wrong


def table_of(result: dict[str, Any]) -> Table:
    """The result for people."""
    table = Table("", "", title=f"Soak of {result['seconds'] / 60:.1f} minutes")
    table.add_row("answers", f"{sum(result['answers'].values())}, each as before; {result['failed']} failed")
    table.add_row("events a second", f"{result['tokens_per_s']:g}")
    table.add_row("killed", ", ".join(f"{count} {role}" for role, count in result["kills"].items()))
    for name, key in (("pause, a replica ready", "pause_with_spare_s"), ("pause, all kills", "pause_s")):
        pause = result[key]
        table.add_row(name, f"median {pause['p50']:.2f} s, 95 % {pause['p95']:.2f} s, longest {pause['max']:.2f} s")
    table.add_row("left over", str(result["left"] or "nothing"))
    table.add_row("memory", ", ".join(f"{role} {held} MB" for role, held in result["memory_mb"].items()))
    table.add_row("memory growth", f"{result['memory_growth']:+.1%}, last third over the middle one")
    return table


def _percentile(values: list[float], share: float) -> float:
    return round(float(np.percentile(values, share)), 3) if values else 0.0


if __name__ == "__main__":
    typer.run(main)
