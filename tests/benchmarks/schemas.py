"""Do structured answers satisfy their schemas? The real model at temperature 1, over as many schemas as there are.

    python -m tests.benchmarks.schemas [--each N] [--generated N] [--tokens N] [--close]

Schemas: those of the official JSON Schema test suite ($RUSSET_DATA/json_schema), and generated ones of the kinds that
APIs are written in (nested records, enums, formats, unions, references, maps, bounded numbers and texts). Each is asked
for `--each` times with different seeds. Told: how many the gateway accepts and why it refuses others, how many answers
ended, and every one that ended and does not satisfy its schema, by jsonschema with formats asserted.
"""

import argparse
import asyncio
import json
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jsonschema

from cluster.config import load
from cluster.local import LocalCluster

MODEL = "smollm2-135m-instruct"
SUITE = Path(os.environ.get("RUSSET_DATA") or Path(__file__).parents[3] / "shared" / "data") / "json_schema"
DRAFTS = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
}
AT_ONCE = 16
UNREAD = "jsonschema cannot read the pattern"


class Case(NamedTuple):
    """A schema and where it is from."""

    origin: str
    schema: Any


class Outcome(NamedTuple):
    """What came of one request."""

    case: Case
    refusal: str  # empty where it was accepted
    ended: bool
    problem: str  # of an answer that ended and does not satisfy


def suite() -> Iterator[Case]:
    """The test suite's schemas: objects and booleans, each under its own draft."""
    for draft, uri in DRAFTS.items():
        for file in sorted((SUITE / draft).rglob("*.json")):
            for group in json.loads(file.read_text()):
                schema = group["schema"]
                if isinstance(schema, dict) and "$schema" not in schema:
                    schema = {"$schema": uri, **schema}
                if isinstance(schema, dict):
                    yield Case(f"{draft}/{file.relative_to(SUITE / draft)}: {group['description']}", schema)


WORDS = (
    "name", "title", "email", "price", "status", "id", "created", "tags", "address", "city", "zip", "country", "items",
    "total", "unit", "owner", "notes", "role",
)  # fmt: skip
FORMATS = ("date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
PATTERNS = (r"^[A-Z]{3}-[0-9]{4}$", r"^#[0-9a-f]{6}$", r"^v[0-9]+\.[0-9]+$", r"^(north|south)-[a-z]{2,6}$")


def generated(count: int, seed: int = 5) -> Iterator[Case]:
    """Schemas of the kinds that APIs are written in, the same ones for a seed."""
    rng = random.Random(seed)
    for index in range(count):
        schema = _record(rng, 0)
        schema["$defs"] = {"shared": _value(rng, 3)}
        yield Case(f"generated/{index}", schema)


def _record(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(1, 5 - min(depth, 3)))
    properties = {name: _value(rng, depth + 1) for name in names}
    record: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if rng.random() < 0.9:
        record["required"] = rng.sample(names, rng.randint(1, len(names)))
    return record


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    leaf = [_text, _number, _enum, _formatted, _flag]
    node = [_record, _list, _union, _map, _tuple, lambda rng, depth: {"$ref": "#/$defs/shared"}]
    return rng.choice(leaf if depth > 2 else leaf + node)(rng, depth)


def _text(rng: random.Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    least = rng.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(2, 24)}


def _number(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randint(-50, 50)
    bounds = {"minimum": low, rng.choice(["maximum", "exclusiveMaximum"]): low + rng.randint(2, 2000)}
    if rng.random() < 0.3:
        return {"type": "integer", "multipleOf": rng.choice([1, 2, 5]), **bounds}
    return {"type": rng.choice(["integer", "number"]), **bounds}


def _enum(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"enum": rng.sample([*WORDS[:6], 1, 2.5, None, True, "a b", "ü"], rng.randint(1, 5))}


def _formatted(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": "string", "format": rng.choice(FORMATS)}


def _flag(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}


def _list(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _value(rng, depth + 1), "minItems": least, "maxItems": least + rng.randint(0, 2)}


def _tuple(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": "array", "prefixItems": [_value(rng, depth + 1) for _ in range(2)], "items": False, "minItems": 2}


def _union(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_value(rng, depth + 1) for _ in range(rng.randint(2, 3))]}


def _map(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": _value(rng, depth + 1), "maxProperties": 2}


async def ask(http: httpx.AsyncClient, case: Case, seed: int, tokens: int, close: bool) -> Outcome:
    """One answer to one schema."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Give me an example as JSON, please."}],
        "temperature": 1,
        "seed": seed,
        "max_tokens": tokens,
        "response_format": {"type": "json_schema", "json_schema": {"name": "example", "schema": case.schema}},
        "russet": {"close": close},
    }
    reply = await http.post("/v1/chat/completions", json=body)
    answer = reply.json()
    if reply.status_code != 200:
        if reply.status_code != 400:
            raise RuntimeError(f"{case.origin}: {answer}")
        return Outcome(case, answer["error"]["message"], False, "")
    choice = answer["choices"][0]
    if choice["finish_reason"] != "stop":
        return Outcome(case, "", False, "")
    return Outcome(case, "", True, problem_of(case.schema, choice["message"]["content"]))


def problem_of(schema: Any, text: str) -> str:
    """Why an answer does not satisfy its schema; empty where it does."""
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        value = json.loads(text)
        # jsonschema takes 1.0 for an integer and true for no number, as the specification does.
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(value)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{text!r}: {str(error).splitlines()[0]}"
    except re.error:
        return UNREAD
    return ""


async def run(cases: list[Case], each: int, tokens: int, close: bool) -> list[Outcome]:
    """Ask for every case, some at once."""
    home = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    config = load(None, {"home": home, "gateway.port": 0, "gateway.grpc_port": 0}, environ={})
    gate = asyncio.Semaphore(AT_ONCE)
    async with LocalCluster(config) as cluster, httpx.AsyncClient(base_url=cluster.http, timeout=600) as http:

        async def one(case: Case, seed: int) -> Outcome:
            async with gate:
                return await ask(http, case, seed, tokens, close)

        return await asyncio.gather(*(one(case, seed) for case in cases for seed in range(each)))


def report(outcomes: list[Outcome], each: int) -> int:
    """Print what came of them; returns how many answers do not satisfy."""
    for kind, chosen in (
        ("test suite", [one for one in outcomes if not one.case.origin.startswith("generated")]),
        ("generated", [one for one in outcomes if one.case.origin.startswith("generated")]),
    ):
        accepted = [one for one in chosen if not one.refusal]
        ended = [one for one in accepted if one.ended]
        unread = sum(one.problem == UNREAD for one in ended)
        wrong = [one for one in ended if one.problem not in ("", UNREAD)]
        print(f"{kind}: {len(chosen) // each} schemas, {len(accepted) // each} accepted; of {len(accepted)} answers")
        print(f"  {len(ended)} ended, {len(accepted) - len(ended)} were cut by length; {len(wrong)} do not satisfy")
        print(f"  {unread} of those that ended have patterns of ECMA-262 that Python, and so jsonschema, does not read")
        for one in wrong:
            print(f"    {one.case.origin}: {one.problem}")
        reasons = Counter(
            one.refusal.partition("refused: ")[2].partition(" (at")[0][:90] for one in chosen if one.refusal
        )
        for reason, count in reasons.most_common(12):
            print(f"  refused {count // each}: {reason}")
    return sum(one.problem not in ("", UNREAD) for one in outcomes)


def main() -> None:
    """Exit status 1 where an answer does not satisfy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--each", type=int, default=1, help="answers to each schema")
    parser.add_argument("--generated", type=int, default=500, help="generated schemas")
    parser.add_argument("--tokens", type=int, default=200, help="most tokens of an answer")
    parser.add_argument("--close", action="store_true", help="have structures closed within their tokens")
    options = parser.parse_args()
    cases = [*suite(), *generated(options.generated)]
    outcomes = asyncio.run(run(cases, options.each, options.tokens, options.close))
    raise SystemExit(report(outcomes, options.each) > 0)


if __name__ == "__main__":
    main()
