"""`russet router simulate`: a trace through a fleet that need not exist, by Russet's router and by simple rules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from actors.base.errors import InvalidArgument
from cluster.simulation.replica import Machine
from cluster.simulation.routers import Russet, rules
from cluster.simulation.run import Clock, Outcome, Router, run
from cluster.simulation.traffic import read_trace

out = Console()
MOST_MACHINES = 200


def simulate(
    trace: Annotated[Path, typer.Option(help="JSONL of requests: {time_s, prompt_tokens, output_tokens, ...}")],
    fleet: Annotated[Path, typer.Option(help="JSONL of replicas: {name, chip, prefill_tokens_per_s, step_ms, ...}")],
    seed: Annotated[int, typer.Option(help="Of what is drawn: delays, and the rules' dice")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object")] = False,
) -> None:
    """Serve a trace by a fleet in simulated time, and compare ways to choose the replica.

    A line of FLEET is a replica: name, chip (replicas of one chip are believed alike at first), prefill_tokens_per_s,
    step_ms and row_ms (a step takes step_ms and row_ms for each row), max_rows, pages (of 16 tokens of KV). A line of
    TRACE is a request: time_s, prompt_tokens, output_tokens and, if you like, session, prefix (an id of what prompts
    share) and prefix_tokens; Mooncake's traces are read as they are.
    """
    arrivals, machines = read_trace(trace), read_fleet(fleet)
    makers: dict[str, Callable[[Clock], Router]] = {"Russet": Russet, **rules(seed)}
    rows = {name: told(run(machines, arrivals, make, seed), machines) for name, make in makers.items()}
    if as_json:
        out.print_json(json.dumps(rows))
        return
    names = [machine.name for machine in machines]
    table = Table("", "first token, mean", "50 %", "99 %", "each token", "cached", "refused", *names)
    for rule, row in rows.items():
        waits = [f"{row[key]:,.0f} ms" for key in ("ttft_mean_ms", "ttft_p50_ms", "ttft_p99_ms")]
        others = f"{row['tpot_mean_ms']:.1f} ms", f"{100 * row['cached_share']:.0f} %", f"{row['refused']:.0f}"
        table.add_row(rule, *waits, *others, *(f"{100 * row[f'share_{name}']:.0f} %" for name in names))
    out.print(table)


def told(outcome: Outcome, machines: list[Machine]) -> dict[str, float]:
    """A run in numbers; shares 0..1. Without a request served, waits are 0."""
    done = outcome.done
    waits = np.array([each.ttft_ms for each in done] or [0.0])
    prompts = sum(each.arrival.prompt_tokens for each in done)
    return {
        "ttft_mean_ms": float(waits.mean()),
        "ttft_p50_ms": float(np.percentile(waits, 50)),
        "ttft_p99_ms": float(np.percentile(waits, 99)),
        "tpot_mean_ms": float(np.mean([each.tpot_ms for each in done] or [0.0])),
        "cached_share": sum(each.cached_tokens for each in done) / max(1, prompts),
        "refused": float(outcome.refused),
        **{f"share_{m.name}": sum(each.replica == m.name for each in done) / max(1, len(done)) for m in machines},
    }


def read_fleet(path: Path) -> list[Machine]:
    """The replicas of a JSONL file. Raises InvalidArgument naming the line that is something else."""
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}", param="fleet") from None
    machines = [_machine(path, number, line) for number, line in enumerate(lines, 1)]
    if not 1 <= len({machine.name for machine in machines}) == len(machines) <= MOST_MACHINES:
        raise InvalidArgument(
            f"{path} has {len(machines)} replicas; accepted are 1 to {MOST_MACHINES} of different names", param="fleet"
        )
    return machines


def _machine(path: Path, number: int, line: str) -> Machine:
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or not set(row) <= set(Machine._fields):
            raise ValueError
        machine = TypeAdapter(Machine).validate_python(row)
        if min(value for value in machine if not isinstance(value, str)) <= 0:
            raise ValueError
    except ValueError:
        raise InvalidArgument(
            f"replica {number} of {path} is {line[:200]!r}; accepted is an object of {', '.join(Machine._fields)}, "
            "the numbers above 0, the last two optional",
            param="fleet",
        ) from None
    return machine
