"""Running a `Decoder` over whole texts: prompts alone, greedy answers, perplexity."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from actors.base.vocabulary import Vocabulary
from kernels.decoder import Batch, Decoder, Float32
from tests.oracles.decoder import negative_log_likelihood

PAGE_SIZE = 16
DATA = Path(os.environ.get("RUSSET_DATA") or Path(__file__).parents[3] / "shared" / "data")
"""Where texts to measure on lie; absent on most machines."""


def logits_of(decoder: Decoder, ids: list[int], first: int = 0) -> Float32:
    """Logits at positions first .. of one sequence, in one forward: [T - first, vocab]."""
    pages = -(-len(ids) // PAGE_SIZE)
    batch = Batch(
        tokens=np.array(ids, np.int32),
        row_starts=np.array([0, len(ids)], np.int32),
        lengths=np.zeros(1, np.int32),
        page_table=np.arange(pages, dtype=np.int32)[None],
        logits_at=np.arange(first, len(ids), dtype=np.int32),
    )
    return np.array(decoder.forward(batch, decoder.allocate_kv(pages, PAGE_SIZE)))


def greedy(decoder: Decoder, prompt: list[int], tokens: int) -> list[int]:
    """The greedy answer, one decode step a token."""
    pages = -(-(len(prompt) + tokens) // PAGE_SIZE)
    kv = decoder.allocate_kv(pages, PAGE_SIZE)
    answer: list[int] = []
    step, length = prompt, 0
    for _ in range(tokens):
        batch = Batch(
            tokens=np.array(step, np.int32),
            row_starts=np.array([0, len(step)], np.int32),
            lengths=np.array([length], np.int32),
            page_table=np.arange(pages, dtype=np.int32)[None],
            logits_at=np.array([len(step) - 1], np.int32),
        )
        answer.append(int(np.argmax(np.array(decoder.forward(batch, kv))[0])))
        length += len(step)
        step = answer[-1:]
    return answer


def windows(vocabulary: Vocabulary, text: str, tokens: int, length: int) -> list[list[int]]:
    """The first `tokens` tokens of a text as separate sequences of `length`."""
    ids = vocabulary.encode(text, special=False)[:tokens]
    if len(ids) < tokens:
        raise ValueError(f"the text has {len(ids)} tokens, {tokens} are wanted")
    return [ids[start : start + length] for start in range(0, tokens, length)]


def perplexity(logits: Iterable[Float32], sequences: list[list[int]]) -> float:
    """exp of the mean -log p of every token but each sequence's first."""
    losses = [negative_log_likelihood(each, ids) for each, ids in zip(logits, sequences, strict=True)]
    return float(np.exp(np.concatenate(losses).mean()))
