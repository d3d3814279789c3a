"""The default model's real weights on the C++ decoder: sane text, and the same bits in company."""

import numpy as np
import pytest

import kernels.cpu

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Batch

QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def decoder(model) -> CpuDecoder:
    return CpuDecoder(model.spec, model.weights)


def step(tokens: list[list[int]], lengths: list[int], pages: int) -> Batch:
    """A batch of rows on pages of their own, row r on pages r * pages and on; logits of each row's last token."""
    starts = np.cumsum([0, *map(len, tokens)]).astype(np.int32)
    table = np.arange(len(tokens) * pages, dtype=np.int32).reshape(len(tokens), pages)
    return Batch(np.concatenate(tokens).astype(np.int32), starts, np.array(lengths, np.int32), table, starts[1:] - 1)


def test_the_capital_of_france(model, decoder: CpuDecoder) -> None:
    vocabulary = Vocabulary.from_message(model.vocabulary)
    prompt = vocabulary.encode(QUESTION)
    kv = decoder.allocate_kv(4, 16)
    logits, text = decoder.forward(step([prompt], [0], 4), kv), []
    while (token := int(logits[0].argmax())) not in vocabulary.eos_ids and len(text) < 12:
        logits = decoder.forward(step([[token]], [len(prompt) + len(text)], 4), kv)
        text.append(token)
    assert vocabulary.decode(text) == "The capital of France is Paris."


def test_same_bits_in_a_batch_of_16(model, decoder: CpuDecoder) -> None:
    vocabulary = Vocabulary.from_message(model.vocabulary)
    prompt = vocabulary.encode(QUESTION)
    alone = decoder.forward(step([prompt], [0], 4), decoder.allocate_kv(4, 16))
    kv = decoder.allocate_kv(64, 16)
    others = [vocabulary.encode(QUESTION.replace("France", country)) for country in ("Peru", "Japan", "Kenya") * 5]
    decoder.forward(step([*others[:9], prompt[:-1], *others[9:]], [0] * 16, 4), kv)
    last = [*([other[-1]] for other in others[:9]), prompt[-1:], *([other[-1]] for other in others[9:])]
    lengths = [*(len(other) - 1 for other in others[:9]), len(prompt) - 1, *(len(other) - 1 for other in others[9:])]
    together = decoder.forward(step(last, lengths, 4), kv)
    np.testing.assert_array_equal(together[9], alone[0])
