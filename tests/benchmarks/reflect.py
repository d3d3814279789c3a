"""What reflection is worth: the share of answers that hold to what was asked, with it and without.

    python -m tests.benchmarks.reflect [--seeds N] [--attempts N]

The default model at temperature 1. Each kind of assertion is asked of every prompt of its kind with so many seeds; told
are the share that passes without reflection (the first attempt, which is what the request gives without) and with it,
by which strategy the rest passed, and the tokens that it took.
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from typing import Any

import httpx

from cluster.config import load
from cluster.local import LocalCluster

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 24}, "country": {"type": "string", "maxLength": 24}},
    "required": ["city", "country"],
    "additionalProperties": False,
}
COLOURS = {
    "type": "array",
    "items": {"enum": ["red", "green", "blue", "white", "black"]},
    "minItems": 2,
    "maxItems": 4,
    "uniqueItems": True,
}
DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
CASES: dict[str, tuple[list[str], list[dict[str, Any]]]] = {
    "schema": (
        [
            'Name a city in Europe as JSON with the keys "city" and "country".',
            'Where is the Eiffel Tower? Answer with a JSON object {"city": ..., "country": ...} and nothing else.',
            'Return JSON only: {"city": string, "country": string} for a large Asian city.',
        ],
        [{"json_schema": CITY}],
    ),
    "schema that cannot be enforced": (
        ["List two to four different colours of red, green, blue, white and black as a JSON array of strings."],
        [{"json_schema": COLOURS}],
    ),
    "regex": (
        ["Which day comes after Monday? Answer with the day's name only.", "Name one day of the week, one word only."],
        [{"regex": f"({DAYS})\\.?"}],
    ),
    "contains": (
        ["Write one sentence about the sea that has the word salt in it.", "Tell me of winter. Use the word salt."],
        [{"contains": "salt"}],
    ),
    "lacks": (
        ["Describe an apple without the word red.", "Describe a rose, but never write the word red."],
        [{"lacks": "red"}],
    ),
    "length": (
        ["What is gravity? At most 100 characters.", "Say in fewer than 100 characters what a river is."],
        [{"max_chars": 100}],
    ),
}


async def ask(client: httpx.AsyncClient, prompt: str, assertions: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The answer to a prompt, reflected."""
    reflect = {"assert": assertions, "deadline_ms": 600_000, "attempts": more.pop("attempts", 3)}
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 100, "russet": {"reflect": reflect}} | more
    return (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()


async def measure(seeds: int, attempts: int) -> None:
    """Ask, and print a row a kind."""
    with tempfile.TemporaryDirectory(prefix="rt-") as home:
        config = load(None, {"home": home, "gateway.port": 0, "gateway.grpc_port": 0}, environ={})
        async with LocalCluster(config) as cluster, httpx.AsyncClient(base_url=cluster.http, timeout=900) as client:
            for kind, (prompts, assertions) in CASES.items():
                asked = [
                    ask(client, prompt, assertions, seed=seed, attempts=attempts)
                    for prompt in prompts
                    for seed in range(seeds)
                ]
                told = [(answer["russet"]["reflect"], answer["usage"]) for answer in await asyncio.gather(*asked)]
                first = sum(reflect["attempts"][0]["met"] == 1 for reflect, _ in told)
                passed = sum(reflect["passed"] for reflect, _ in told)
                by = Counter(
                    reflect["attempts"][reflect["chosen"]]["strategy"] for reflect, _ in told if reflect["passed"]
                )
                made = sum(len(reflect["attempts"]) for reflect, _ in told) / len(told)
                print(
                    f"{kind}: {first}/{len(told)} without, {passed}/{len(told)} with reflection "
                    f"({', '.join(f'{name} {count}' for name, count in by.items())}); {made:.1f} attempts",
                    flush=True,
                )


def main() -> None:
    """Print what reflection is worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16, help="answers to each prompt")
    parser.add_argument("--attempts", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure(options.seeds, options.attempts))


if __name__ == "__main__":
    main()
