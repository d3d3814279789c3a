"""Coherence over real questions and answers: real ones score high, shuffled ones low."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory.config import MemoryConfig
from actors.memory.embedder import default_directory
from actors.memory.quality.calibration import Calibration
from actors.memory.quality.coherence import coherence
from actors.memory.quality.scorer import excerpt
from kernels.encoder import Encoder

GSM8K = (
    Path(os.environ.get("RUSSET_DATA") or Path(__file__).parents[5] / "shared" / "data") / "text" / "gsm8k_train.jsonl"
)
FLAT = Calibration(1, 0)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_probability_grows_with_the_cosine(one: float, other: float) -> None:
    for calibration in (MemoryConfig().quality_neighbours, MemoryConfig().quality_answers):
        low, high = sorted((calibration.probability(one), calibration.probability(other)))
        assert 0 <= low <= high <= 1
        assert (one <= other) == (calibration.probability(one) <= calibration.probability(other)) or low == high


def test_what_is_not_there_to_compare_does_not_count() -> None:
    rows = np.eye(3, dtype=np.float32)
    middle = Calibration(10, 0).probability(0)
    assert coherence(rows[:0], [], rows[0], FLAT, FLAT) == 1
    assert coherence(rows[:1], [0], None, FLAT, FLAT) == 1
    assert coherence(rows[:2], [0, 5], None, FLAT, FLAT) == 1, "sentences that do not follow one another"
    assert coherence(rows[:2], [4, 5], None, Calibration(10, 0), FLAT) == middle
    assert coherence(rows[:1], [0], rows[0], FLAT, Calibration(10, 1)) == middle


@pytest.mark.data
@pytest.mark.skipif(not GSM8K.exists(), reason=f"no {GSM8K}: set RUSSET_DATA")
def test_real_answers_are_coherent_and_shuffled_ones_are_not() -> None:
    with GSM8K.open() as lines:
        rows = [json.loads(line) for _, line in zip(range(100), lines, strict=False)]
    encoder, config = Encoder.load(default_directory()), MemoryConfig()
    questions = encoder.embed([row["question"] for row in rows])
    read = [excerpt(row["answer"].split("####")[0], config.quality_sentences) for row in rows]
    vectors = [encoder.embed(texts) for texts, _ in read]
    pool = np.concatenate(vectors)
    chance = random.Random(1)

    def score(each: np.ndarray, places: list[int], question: np.ndarray) -> float:
        return coherence(each, places, question, config.quality_neighbours, config.quality_answers)

    real = [score(each, places, question) for each, (_, places), question in zip(vectors, read, questions, strict=True)]
    shuffled = [
        score(pool[chance.sample(range(len(pool)), len(places))], places, questions[at - 1])
        for at, (_, places) in enumerate(read)
    ]
    assert np.mean(real) > 0.9
    assert np.mean(shuffled) < 0.4
    better = np.mean([high > low for high in real for low in shuffled])
    assert better > 0.97, "of two, the real one nearly always"
