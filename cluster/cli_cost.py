"""What `russet router` does for the cost router: reads strong/weak rows, and tells scores and the gate's verdict."""

from pathlib import Path
from typing import Any

from rich.console import Console

from actors.base.errors import InvalidArgument
from cluster.jsonl import read

OUTCOMES = ("weak_correct", "strong_correct")
KNOWN = ("tokens", "temperature", "top_p")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file of {prompt, weak_correct, strong_correct}, and of KNOWN what they have.

    A field "source" is for who keeps the file and stays behind. Raises InvalidArgument naming the line that is
    something else.
    """
    rows = []
    for number, line, row in read(path):
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("prompt"), str)
            or not all(isinstance(row.get(name), bool) for name in OUTCOMES)
            or row.keys() - {"prompt", "source", *OUTCOMES, *KNOWN}
        ):
            raise InvalidArgument(
                f'line {number} of {path} is {line[:80]!r}; accepted is {{"prompt": ..., "weak_correct": true, '
                f'"strong_correct": false}}, and {", ".join(KNOWN)} where known',
                param="data",
            )
        rows.append({name: value for name, value in row.items() if name != "source"})
    return rows


def say_scores(out: Console, prompts: list[str], found: dict[str, Any]) -> None:
    """A line a prompt."""
    for prompt, share in zip(prompts, found["p"], strict=True):
        shown = prompt if len(prompt) <= 80 else prompt[:77] + "..."
        out.print(f"{share:.2f}  {' '.join(shown.split())}", markup=False)
    whose = f"your version {found['version']}" if found["version"] else "the one that comes with Russet"
    out.print(f"probability that the small model is enough, by {whose}", markup=False, style="dim")
    if not found["embedded"]:
        out.print("scored by the form of the prompts alone: no embeddings of this router's kind", markup=False)


def say_verdict(out: Console, told: dict[str, Any]) -> None:
    """Whether the candidate serves, why, and what serves now."""
    out.print("the candidate serves from now on" if told["served"] else "the candidate was refused", markup=False)
    for reason in told["reasons"]:
        out.print(f"  {reason}", markup=False)
    card = told["serving"]
    held = card["held_out"]
    origin = "comes with Russet" if card["shipped"] else f"your version {card['version']}"
    over = f"over chance {_interval(held['over_chance'])}, over prompt length {_interval(held['over_length'])}"
    out.print(
        f"serving: {origin}, trained on {card['rows']} rows; gap recovered {over}; calibration error "
        f"{held['calibration_error']:.3f}",
        markup=False,
    )


def _interval(told: dict[str, float]) -> str:
    return f"{told['value']:.3f} [{told['low']:.3f}, {told['high']:.3f}]"
