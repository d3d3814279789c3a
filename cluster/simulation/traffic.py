"""Arrivals: read from a trace, or made in a shape that traffic is known to have.

A trace is CSV (csv_trace.py has the columns) or JSONL, a line a request: {"time_s", "prompt_tokens", "output_tokens"}
and, where there are any, "session" (the conversation it is a turn of), "prefix" (an id of what its prompt begins with)
and "prefix_tokens" (how long that is). Mooncake's form is read as well: {"timestamp" (ms), "input_length",
"output_length", "hash_ids"}, where each hash stands for 512 tokens.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from actors.base.errors import InvalidArgument
from cluster.simulation.csv_trace import csv_rows

PAGE_TOKENS = 16
BLOCK_PAGES = 512 // PAGE_TOKENS
MOST_REQUESTS = 1_000_000
MOST_TOKENS = 1_000_000


class Arrival(NamedTuple):
    """A request as traffic has it. `pages` name what its prompt's and answer's pages hold, in order."""

    number: int
    time_s: float
    prompt_tokens: int
    output_tokens: int
    session: str
    runs: tuple[tuple[int, int], ...]
    """What it begins with: (name, pages) of each run of pages that others may have too; the rest is `own`."""
    own: int
    """Name of what follows: the session's, or the request's."""

    @property
    def pages(self) -> int:
        """KV pages of prompt and answer."""
        return -(-(self.prompt_tokens + self.output_tokens) // PAGE_TOKENS)

    def page_keys(self, tokens: int) -> Iterator[int]:
        """Names of the whole pages among the first `tokens` of prompt and answer."""
        left = tokens // PAGE_TOKENS
        at = 0
        for name, pages in self.runs:
            for page in range(min(pages, left)):
                yield name << 24 | page
            at += pages
            left -= pages
            if left <= 0:
                return
        for page in range(at, at + left):
            yield self.own << 24 | page


def read_trace(path: Path) -> list[Arrival]:
    """Arrivals of a trace, by time. Raises InvalidArgument naming the line that is something else."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}", param="trace") from None
    rows = []
    for row in _csv(path, lines) if path.suffix.lower() == ".csv" else _jsonl(path, lines):
        rows.append(row)
        if len(rows) > MOST_REQUESTS:
            raise InvalidArgument(f"{path} has more than {MOST_REQUESTS:,} requests", param="trace")
    if not rows:
        raise InvalidArgument(f"{path} has no requests", param="trace")
    return _arrivals(rows)


def _jsonl(path: Path, lines: list[str]) -> "Iterator[_Row]":
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _row(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidArgument(
                f"line {number} of {path} is {line[:100]!r}; accepted is "
                '{"time_s", "prompt_tokens", "output_tokens", "session", "prefix", "prefix_tokens"} with counts in '
                f"1..{MOST_TOKENS}, the last three optional, or Mooncake's form",
                param="trace",
            ) from None


def _csv(path: Path, lines: list[str]) -> "Iterator[_Row]":
    try:
        for row in csv_rows(lines):
            yield _checked(_Row(*row[1:], "", "", None, ()), row.line)
    except ValueError as wrong:
        number = wrong.args[0]
        if not isinstance(number, int):
            raise InvalidArgument(f"{path}: {wrong}", param="trace") from None
        raise InvalidArgument(
            f"line {number} of {path} is {lines[number - 1][:100]!r}; accepted are a time (seconds or a date) and "
            f"counts of tokens up to {MOST_TOKENS}",
            param="trace",
        ) from None


class _Row(NamedTuple):
    time_s: float
    prompt_tokens: int
    output_tokens: int
    session: str
    prefix: str
    prefix_tokens: int | None
    blocks: tuple[int, ...]


def _row(line: dict[str, Any]) -> _Row:
    if "hash_ids" in line:
        blocks = tuple(int(block) for block in line["hash_ids"])
        counts = line["input_length"], line["output_length"]
        row = _Row(line["timestamp"] / 1e3, counts[0], counts[1], "", "", None, blocks)
    else:
        session, prefix = [str(line[name]) if line.get(name) is not None else "" for name in ("session", "prefix")]
        counts = line["prompt_tokens"], line["output_tokens"]
        row = _Row(line["time_s"], counts[0], counts[1], session, prefix, line.get("prefix_tokens"), ())
    return _checked(row)


def _checked(row: _Row, line: int = 0) -> _Row:
    """The row; ValueError(line) where a count or time is out of its range."""
    tokens = [row.prompt_tokens, row.output_tokens]
    if row.prefix_tokens is not None:
        tokens.append(row.prefix_tokens)
    if not all(type(count) is int and 1 <= count <= MOST_TOKENS for count in tokens):
        raise ValueError(line)
    if not 0 <= row.time_s < math.inf:
        raise ValueError(line)
    return row


def _arrivals(rows: Sequence[_Row]) -> list[Arrival]:
    """Names for what is shared. A prefix of no stated length is as long as its shortest prompt."""
    shared: dict[str, int] = {}
    for row in rows:
        if row.prefix:
            stated = row.prompt_tokens if row.prefix_tokens is None else min(row.prefix_tokens, row.prompt_tokens)
            shared[row.prefix] = min(shared.get(row.prefix, stated), stated)
    names: dict[tuple[str, str], int] = {}

    def name(kind: str, what: str) -> int:
        return names.setdefault((kind, what), len(names) + 1)

    arrivals = []
    for number, row in enumerate(sorted(rows, key=lambda row: row.time_s)):
        if row.blocks:
            runs = tuple((name("block", str(block)), BLOCK_PAGES) for block in row.blocks)
        else:
            runs = ((name("prefix", row.prefix), shared[row.prefix] // PAGE_TOKENS),) if row.prefix else ()
        own = name("session", row.session) if row.session else name("request", str(number))
        arrivals.append(Arrival(number, row.time_s, row.prompt_tokens, row.output_tokens, row.session, runs, own))
    return arrivals
