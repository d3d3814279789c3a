"""Prompts whose answers quote them (correct, change or list a text, answer from a document), and chat of every kind.

The texts are of $RUSSET_DATA: what gsm8k's questions tell before they ask, written by people; the chat is the first
turns of mt_bench and vicuna. A small model asked to quote does not always do so: `quoted` says how much it does.
"""

import json
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from tests.benchmarks.chats import Message
from tests.benchmarks.perplexity import TEXT

PROMPTS = TEXT.parents[1] / "prompts"
TYPOS = {"the": "teh", "and": "adn", "with": "wiht", "there": "ther", "their": "thier", "does": "dose", "much": "mcuh"}
SENTENCES = 8
"""Of a text."""
GRAM = 4
"""Tokens that have to be the prompt's in a row to count as quoted."""


class Prompt(NamedTuple):
    """A request, and of which kind it is."""

    kind: str
    messages: list[Message]


def _user(kind: str, text: str) -> Prompt:
    return Prompt(kind, [{"role": "user", "content": text}])


def quoting(count: int, seed: int = 0) -> list[Prompt]:
    """`count` prompts, the kinds in turn, each about a text of its own."""
    draw = random.Random(seed)
    records = [json.loads(line)["question"] for line in TEXT.read_text("utf-8").splitlines()]
    draw.shuffle(records)
    told = (sentence for record in records for sentence in re.split(r"(?<=[.!?])\s+", record) if sentence[-1:] == ".")
    makers = (_corrected, _renamed, _listed, _extracted, _answered)
    return [makers[number % len(makers)]([next(told) for _ in range(SENTENCES)], draw) for number in range(count)]


def chat() -> list[Prompt]:
    """The first turns of both sets of questions: 160 prompts."""
    prompts = []
    for name in ("mt_bench", "vicuna"):
        for line in (PROMPTS / f"{name}.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            prompts.append(_user(record["category"], record["turns"][0]))
    return prompts


def quoted(prompt: Sequence[int], output: Sequence[int]) -> float:
    """Share of an output's token GRAMs that the prompt has too."""
    there = {tuple(prompt[at : at + GRAM]) for at in range(len(prompt) - GRAM + 1)}
    grams = [tuple(output[at : at + GRAM]) for at in range(len(output) - GRAM + 1)]
    return sum(gram in there for gram in grams) / max(len(grams), 1)


def _corrected(text: Sequence[str], draw: random.Random) -> Prompt:
    words = " ".join(text).split(" ")
    wrong = [TYPOS[word] if word in TYPOS and draw.random() < 0.5 else word for word in words]
    return _user("edit", f"Fix the spelling mistakes in this text:\n\n{' '.join(wrong)}")


def _renamed(text: Sequence[str], draw: random.Random) -> Prompt:
    names = [word.strip(".,") for sentence in text for word in sentence.split()[1:] if word.istitle()] or ["The"]
    ask = f'Write the same text again, with "Robin" instead of "{draw.choice(names)}".'
    return _user("edit", f"Here is a text:\n\n{' '.join(text)}\n\n{ask}")


def _listed(text: Sequence[str], draw: random.Random) -> Prompt:
    ask = "Write each sentence of the text as an item of a list."
    return _user("extract", f"Here is a text:\n\n{' '.join(text)}\n\n{ask}")


def _extracted(text: Sequence[str], draw: random.Random) -> Prompt:
    ask = "Quote the sentences of the text that contain a number."
    return _user("extract", f"Here is a text:\n\n{' '.join(text)}\n\n{ask}")


def _answered(text: Sequence[str], draw: random.Random) -> Prompt:
    subject = draw.choice(text).split(" ")[0]
    documents = "\n\n".join(" ".join(text[at : at + 4]) for at in range(0, len(text), 4))
    ask = f"Quote the part of these documents that tells about {subject}."
    return _user("retrieve", f"Here are two documents:\n\n{documents}\n\n{ask}")
