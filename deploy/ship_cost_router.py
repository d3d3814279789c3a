"""Train the cost router that ships with Russet, and report how it does on questions held out.

python -m deploy.ship_cost_router $RUSSET_DATA

Outcomes: routing/strong_weak_train.jsonl. Sampling: the temperatures that FastChat's judge uses for the categories of
prompts/mt_bench.jsonl and vicuna.jsonl, and 0 for questions with one right answer; top_p is TOP_P where that is SAMPLED
or more, else 1. Context: tokens of question and answer, of text/gsm8k_train.jsonl as they are, of multiple choice with
an answer of CHOICE_TOKENS.
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np

from actors.memory.embedder import Embedder
from actors.router.fastgrnn.fitting import Row, fit
from actors.router.fastgrnn.stored import SHIPPED, dump

TEMPERATURES = {"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1}
OTHER_TEMPERATURE, SAMPLED, TOP_P = 0.7, 0.5, 0.9
CHARACTERS_PER_TOKEN, CHOICE_TOKENS, SOLVED = 4, 16, 400
EMBED_BATCH = 256


def rows(data: Path) -> list[Row]:
    """All that is learned from."""
    found = []
    for row in _lines(data / "routing" / "strong_weak_train.jsonl"):
        prompt = row["prompt"]
        choice = row["source"].startswith("mmlu")
        tokens = len(prompt) / CHARACTERS_PER_TOKEN + CHOICE_TOKENS if choice else float("nan")
        found.append(Row(prompt, float(row["weak_correct"]), float(row["strong_correct"]), tokens, 0.0, 1.0))
    for name in ("mt_bench", "vicuna"):
        for row in _lines(data / "prompts" / f"{name}.jsonl"):
            temperature = TEMPERATURES.get(row["category"], OTHER_TEMPERATURE)
            top_p = TOP_P if temperature >= SAMPLED else 1.0
            found += [Row(turn, temperature=temperature, top_p=top_p) for turn in row["turns"]]
    for row in _lines(data / "text" / "gsm8k_train.jsonl")[:SOLVED]:
        tokens = (len(row["question"]) + len(row["answer"])) / CHARACTERS_PER_TOKEN
        found.append(Row(row["question"], tokens=tokens, temperature=0.0, top_p=1.0))
    return found


def main(data: Path) -> None:
    """Embed, train, write."""
    given = rows(data)
    embedder = Embedder(None)
    vectors = [
        asyncio.run(embedder.embed([row.prompt for row in given[start : start + EMBED_BATCH]]))[0]
        for start in range(0, len(given), EMBED_BATCH)
    ]
    embedder.close()
    router = fit(given, np.concatenate(vectors), embedder.model).router
    SHIPPED.parent.mkdir(exist_ok=True)
    SHIPPED.write_text(dump(router))
    for name, value in router.quality._asdict().items():
        print(f"{name}: {value}")
    print(f"{SHIPPED}: {SHIPPED.stat().st_size} bytes")


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
