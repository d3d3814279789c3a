"""The default model's real weights on the C++ decoder: sane text, and the same bits in company."""

import json
from pathlib import Path

import numpy as np
import pytest

import kernels.cpu

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from kernels import tree
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Batch

GOLDEN = Path(__file__).parents[2] / "golden" / "greedy_smollm2.json"
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


def test_a_tree_of_continuations_equals_each_of_them_alone(model, decoder: CpuDecoder) -> None:
    """Rows whose drafts branch, with a row that only decodes: the same bits, and the same text after a path."""
    vocabulary = Vocabulary.from_message(model.vocabulary)
    prompts = [vocabulary.encode(QUESTION.replace("France", country)) for country in ("France", "Peru", "Japan")]
    lengths, pages = [len(prompt) for prompt in prompts], 4
    drafts = [vocabulary.encode(text) for text in ("The capital of Peru is Lima", "I think the town is Paris", "A")]
    parents = [[-1, 0, 1, 2, 0, 4, 3][: len(draft)] for draft in drafts]
    kv = decoder.allocate_kv(3 * pages, 16)
    decoder.forward(step(prompts, [0] * 3, pages), kv)
    together = step(drafts, lengths, pages)
    every, column = np.arange(len(together.tokens), dtype=np.int32), np.concatenate(parents).astype(np.int32)
    logits = decoder.forward(together._replace(logits_at=every, parents=column), kv)
    for row, draft in enumerate(drafts):
        for token in range(len(draft)):
            path, at = [], token
            while at >= 0:
                path, at = [at, *path], parents[row][at]
            text = [*prompts[row], *(draft[i] for i in path)]
            plain = decoder.allocate_kv(pages, 16)
            alone = decoder.forward(step([text[:-1]], [0], pages), plain)
            alone = decoder.forward(step([text[-1:]], [len(text) - 1], pages), plain)
            np.testing.assert_array_equal(logits[together.row_starts[row] + token], alone[0])
    path = [0, 4, 5]
    table = together.page_table[0]
    kv.move_tokens(*tree.compaction(lengths[0], path, table, 16))
    plain, text = decoder.allocate_kv(pages, 16), [*prompts[0], *(drafts[0][i] for i in path)]
    decoder.forward(step([text], [0], pages), plain)
    for token in vocabulary.encode(" Paris, of course"):
        after, alone = (decoder.forward(step([[token]], [len(text)], pages), slab) for slab in (kv, plain))
        np.testing.assert_array_equal(after, alone)
        text.append(token)


@pytest.mark.parametrize(("name", "most_kl", "least_same"), [("q8", 1e-4, 0.97), ("q4", 0.02, 0.92), ("q2", 1, 0.5)])
def test_quantized_history_hardly_changes_what_follows(
    decoder: CpuDecoder, name: str, most_kl: float, least_same: float
) -> None:
    """All but the last 64 of 448 tokens are quantized, then 128 are read and predicted."""
    answers = json.loads(GOLDEN.read_text())["answers"]
    ids = [token for answer in answers for token in answer["prompt_ids"] + answer["ids"]][:576]
    table, pages = np.arange(36, dtype=np.int32)[None], np.arange(24, dtype=np.int32)
    logits = []
    for blocks in ({}, {name: 6}):
        kv = decoder.allocate_kv(36, 16, blocks)
        decoder.forward(step([ids[:448]], [0], 36), kv)
        if blocks:
            kv.demote(pages, np.arange(36, 60, 4, dtype=np.int32))
            kv.release_units(pages)
            table[0, :24] = np.arange(36, 60)
        rest = step([ids[448:]], [448], 36)._replace(page_table=table, logits_at=np.arange(128, dtype=np.int32))
        logits.append(np.array(decoder.forward(rest, kv), np.float64))
    exact, served = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in logits)
    divergence = (np.exp(exact) * (exact - served)).sum(axis=1).mean()
    assert 0 < divergence < most_kl
    assert (exact.argmax(axis=1) == served.argmax(axis=1)).mean() >= least_same
