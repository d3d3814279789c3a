"""Hidden states beside the logits: of the tokens asked for, what the head would multiply, and nothing else changes."""

import mlx.core as mx
import numpy as np
import pytest

from kernels import cpu, reference
from kernels.backend import build_decoder
from kernels.decoder import Batch, Decoder, HiddenStates, Kv
from tests.oracles import random_decoder

SPEC, WEIGHTS = random_decoder.model(bias=True, tied=False)
PARENTS = [-1, 0, 0, 2, -1, 0]


@pytest.fixture(params=["cpu", "mlx"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    if mx.default_device().type == mx.gpu:
        pytest.skip("compares float32 with float32")
    if request.param == "cpu" and not cpu.available():
        pytest.skip(cpu.reason())
    return build_decoder(SPEC, WEIGHTS, backend=request.param)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def asked(*at: int) -> HiddenStates:
    return HiddenStates(ints(*at), np.full((len(at), SPEC.hidden), np.nan, np.float32))


def batch(logits_at: np.ndarray, hidden: HiddenStates | None, parents: np.ndarray | None = None) -> Batch:
    tokens, table = ints(3, 1, 4, 1, 5, 9), ints(1, 0)[:, None]
    return Batch(tokens, ints(0, 4, 6), ints(0, 2), table, logits_at, parents, hidden)


def slab(decoder: Decoder) -> Kv:
    """The second row has two tokens in it."""
    kv = decoder.allocate_kv(2, 8)
    decoder.forward(Batch(ints(7, 8), ints(0, 2), ints(0), ints(0)[None], ints()), kv)
    return kv


@pytest.mark.parametrize("parents", [None, ints(*PARENTS)], ids=["rows", "trees"])
@pytest.mark.parametrize(
    ("at", "logits_at"), [((0, 2, 5), (1, 2, 4)), ((3,), ()), ((), (5,)), ((0, 1, 2, 3, 4, 5), (2,))]
)
def test_the_head_makes_them_the_tokens_logits(
    decoder: Decoder, at: tuple, logits_at: tuple, parents: np.ndarray | None
) -> None:
    every = np.array(decoder.forward(batch(np.arange(6, dtype=np.int32), None, parents), slab(decoder)))
    hidden = asked(*at)
    logits = np.array(decoder.forward(batch(ints(*logits_at), hidden, parents), slab(decoder)))
    np.testing.assert_array_equal(logits, every[list(logits_at)])
    head = np.array(reference.linear(mx.array(hidden.states), WEIGHTS.head))
    np.testing.assert_allclose(head, every[list(at)], atol=2e-5)


def test_they_are_normed(decoder: Decoder) -> None:
    hidden = asked(0, 3)
    decoder.forward(batch(ints(), hidden), slab(decoder))
    normed = hidden.states / np.array(WEIGHTS.final_norm)
    np.testing.assert_allclose(np.square(normed).mean(axis=1), 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (asked(1, 1), "hidden.at"),
        (asked(6), "hidden.at"),
        (asked(-1), "hidden.at"),
        (HiddenStates(ints(1), np.zeros((1, 31), np.float32)), r"hidden.states is \[1, 31\]; it must be \[1, 32\]"),
        (HiddenStates(ints(1), np.zeros((2, 32), np.float32)), r"hidden.states is \[2, 32\]; it must be \[1, 32\]"),
    ],
)
def test_what_cannot_be_told_is_named(decoder: Decoder, hidden: HiddenStates, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder.forward(batch(ints(5), hidden), slab(decoder))
