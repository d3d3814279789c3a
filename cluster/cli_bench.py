"""`russet bench`: load on a server, as clients that wait for their answers or as a trace that waits for nobody."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from actors.base.errors import InvalidArgument
from cluster.bench import Load, run
from cluster.cli_options import ConfigFile, Key, Url
from cluster.lifecycle import running_url
from cluster.replay import Replay, Slo, replay
from cluster.replay_picture import table, write_pictures
from cluster.simulation.traffic import Arrival, read_trace

app = typer.Typer(name="bench", invoke_without_command=True)
out = Console()
err = Console(stderr=True)
Model = Annotated[str | None, typer.Option(help="Model id \\[default: the server's first]")]
Json = Annotated[bool, typer.Option("--json")]


@app.callback()
def bench(
    context: typer.Context,
    url: Url = None,
    clients: Annotated[int, typer.Option(min=1, max=1024, help="Concurrent streams")] = 16,
    requests: Annotated[int, typer.Option(min=1, help="Requests in all")] = 64,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 128,
    output_tokens: Annotated[int, typer.Option(min=1)] = 64,
    model: Model = None,
    as_json: Json = False,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Load a server with concurrent streams and print throughput and latency percentiles."""
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    load_ = Load(clients, requests, prompt_tokens, output_tokens, model)
    bar, task = _progress(requests)
    with bar:
        result = asyncio.run(
            run(
                url or running_url(config),
                load_,
                key,
                on_stream=lambda stream: bar.update(task, advance=1, description="Requests"),
            )
        )
    if as_json:
        out.print_json(json.dumps(result.as_dict()))
    else:
        out.print(result.table())
    if result.as_dict()["failed"]:
        raise typer.Exit(1)


@app.command()
def load(
    trace: Annotated[Path, typer.Argument(help="CSV or JSONL: arrival times, tokens of prompts and answers")],
    speed: Annotated[float, typer.Option(min=1e-3, max=1e6, help="So many times as fast as the trace")] = 1.0,
    tokens: Annotated[float, typer.Option(min=1e-4, max=100, help="Prompts and answers so many times as long")] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests")] = None,
    slo_ttft: Annotated[float | None, typer.Option(min=1, help="SLO of the time to first token, ms")] = None,
    slo_tpot: Annotated[float | None, typer.Option(min=0.1, help="SLO of the time per output token, ms")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the prompts \\[default: another each time]")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw (needs matplotlib)")] = None,
    rows: Annotated[Path | None, typer.Option(help="JSONL to write, a line a request")] = None,
    url: Url = None,
    model: Model = None,
    as_json: Json = False,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Replay a trace against any OpenAI-compatible server: each request when the trace says so, whatever still runs.

    A line of JSONL is {time_s, prompt_tokens, output_tokens} and, if you like, session, prefix (an id of what prompts
    share) and prefix_tokens, or Mooncake's form; of CSV, Azure's LLM inference traces, BurstGPT's and the like are
    read. A request counts as good where it keeps to the SLO.
    """
    arrivals = [_scaled(arrival, tokens) for arrival in read_trace(trace)[:limit]]
    slo = Slo(*(None if each is None else each / 1e3 for each in (slo_ttft, slo_tpot)))
    asked = Replay(arrivals, speed, model, slo)
    if seed is not None:
        asked = Replay(arrivals, speed, model, slo, seed)
    for path in filter(None, (plot, rows)):
        if not path.absolute().parent.is_dir():
            raise InvalidArgument(f"{path}: there is no directory {path.absolute().parent}", param="plot")
    bar, task = _progress(len(arrivals))
    with bar:
        advance = lambda sent: bar.update(task, advance=1, description="Requests")  # noqa: E731
        report = asyncio.run(replay(url or running_url(config), asked, key, on_end=advance))
    if rows is not None:
        rows.write_text("".join(json.dumps(row) + "\n" for row in report.rows()))
    if plot is not None:
        write_pictures(report, plot)
    if as_json:
        out.print_json(json.dumps(report.as_dict()))
    else:
        out.print(table(report))
    if report.as_dict()["failed"]:
        raise typer.Exit(1)


def _refuse_options(context: typer.Context) -> None:
    """What stands before the subcommand would be lost on it."""
    for name in context.params:
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE":
            option = f"--{name.removeprefix('as_').replace('_', '-')}"
            raise InvalidArgument(
                f"{option} stands before `{context.invoked_subcommand}`, which does not read it there; put it after",
                param=name,
            )


def _scaled(arrival: Arrival, factor: float) -> Arrival:
    if factor == 1:
        return arrival
    counts = (max(1, round(factor * count)) for count in (arrival.prompt_tokens, arrival.output_tokens))
    prompt_tokens, output_tokens = counts
    runs = tuple((name, max(1, round(factor * pages))) for name, pages in arrival.runs)
    return arrival._replace(prompt_tokens=prompt_tokens, output_tokens=output_tokens, runs=runs)


def _progress(total: int) -> tuple[Progress, TaskID]:
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=err, transient=True)
    return bar, bar.add_task("Warming up", total=total)
