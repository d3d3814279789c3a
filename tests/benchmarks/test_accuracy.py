"""The distances to float32 are what their names say, and decoding step by step computes what a prefill does."""

import numpy as np
import pytest

from kernels.cpu.decoder import CpuDecoder
from tests.benchmarks.accuracy import Distance, answers, stepwise
from tests.oracles import random_decoder, running

LOGITS = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]], np.float32))


def values(distance: Distance) -> list[float]:
    return [value[0] for value in distance.figures(1).values()]


def test_equal_logits_are_at_no_distance_whatever_their_scale() -> None:
    distance = Distance()
    distance.add(LOGITS, LOGITS + 7, [0, 1, 2])
    perplexity, apart, divergence, same = values(distance)
    assert perplexity == pytest.approx((0.25 * 0.5) ** -0.5)
    assert apart == pytest.approx(0, abs=1e-5)
    assert divergence == pytest.approx(0, abs=1e-6)
    assert same == 100


def test_another_distribution_is_as_far_as_its_divergence() -> None:
    distance = Distance()
    served = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5], [0.9, 0.05, 0.05]], np.float32))
    distance.add(LOGITS, served, [0, 1, 2])
    _, apart, divergence, same = values(distance)
    assert apart == pytest.approx(100 * (1 - 2**-0.5), rel=1e-4)
    assert divergence == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2, rel=1e-4)
    assert same == 50


def test_steps_of_a_batch_compute_each_rows_own_logits() -> None:
    decoder = CpuDecoder(*random_decoder.model(bits=4))
    rows = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9]]
    for row, logits in zip(rows, stepwise(decoder, rows), strict=True):
        np.testing.assert_array_equal(logits, running.logits_of(decoder, row))


def test_answers_are_the_greedy_ones() -> None:
    decoder = CpuDecoder(*random_decoder.model(bits=4))
    prompts = [[3, 1, 4], [9, 2, 6]]
    assert answers(decoder, prompts, 6).tolist() == [running.greedy(decoder, prompt, 6) for prompt in prompts]
