"""Traces as CSV: Azure's LLM inference traces, BurstGPT's, and others that name the same three columns."""

import csv
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

TIME = ("time_s", "timestamp", "arrived_at", "arrival_time")
PROMPT = ("prompt_tokens", "contexttokens", "request tokens", "input_length", "num_prefill_tokens")
OUTPUT = ("output_tokens", "generatedtokens", "response tokens", "output_length", "num_decode_tokens")
KINDS = {"time": TIME, "prompt": PROMPT, "answer": OUTPUT}
COLUMNS = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in KINDS.items())


class CsvRow(NamedTuple):
    """One request; `line` is where it stands in the file."""

    line: int
    time_s: float
    prompt_tokens: int
    output_tokens: int


def csv_rows(lines: list[str]) -> Iterator[CsvRow]:
    """The requests, at times since the first of them.

    Times are seconds or dates. A count of 0, which some traces have for requests that failed, is read as 1. Raises
    ValueError: with its text where a column is missing, with the line's number where a row is something else.
    """
    reader = csv.DictReader(lines)
    there = {name.strip().lower(): name for name in reader.fieldnames or ()}
    found = [next((there[name] for name in names if name in there), None) for names in KINDS.values()]
    if None in found:
        raise ValueError(f"its first line names {', '.join(there) or 'nothing'}; accepted are, in any case, {COLUMNS}")
    time, prompt, output = (str(name) for name in found)
    first: float | None = None
    for row in reader:
        try:
            at_s = _seconds(row[time])
            counts = [max(1, int(row[name])) for name in (prompt, output)]
        except (ValueError, TypeError):
            raise ValueError(reader.line_num) from None
        first = at_s if first is None else first
        yield CsvRow(reader.line_num, max(0.0, at_s - first), *counts)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.strip()).timestamp()
