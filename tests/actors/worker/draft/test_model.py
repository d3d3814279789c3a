"""Drafting by a model: what it proposes is its own greedy continuation, whatever was rejected before."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary
from actors.worker.draft.draft import Context
from actors.worker.draft.drafter import Drafter
from actors.worker.draft.model import CATCH_UP, DraftModel, load_draft_model
from actors.worker.draft.tree import Guess
from actors.worker.models import LoadedModel, load_model
from actors.worker.step_cost import StepCost, Work
from kernels.backend import build_decoder
from kernels.decoder import Batch, Decoder, DecoderSpec, DecoderWeights, LayerWeights, Rope

MODEL = "smollm2-135m-instruct"


def spec(layers: int = 2, context: int = 512) -> DecoderSpec:
    rope = Rope(tuple(float(10000 ** (-i / 16)) for i in range(16)), interleaved=False)
    return DecoderSpec(layers, 64, 2, 1, 32, 128, 96, context, 1e-5, rope)


def weights(of: DecoderSpec, seed: int) -> DecoderWeights:
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> mx.array:
        return mx.array(draw.normal(0, scale / np.sqrt(columns), (rows, columns)).astype(np.float32))

    ones, kv = mx.ones((of.hidden,), mx.float32), of.kv_heads * of.head_dim
    layers = tuple(
        LayerWeights(
            ones, matrix(of.heads * of.head_dim, of.hidden, 2), matrix(kv, of.hidden, 2), matrix(kv, of.hidden),
            matrix(of.hidden, of.heads * of.head_dim), ones, matrix(of.intermediate, of.hidden),
            matrix(of.intermediate, of.hidden), matrix(of.hidden, of.intermediate),
        )
        for _ in range(of.layers)
    )  # fmt: skip
    return DecoderWeights(matrix(of.vocab, of.hidden), layers, ones, matrix(of.vocab, of.hidden, 6))


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return build_decoder(spec(), weights(spec(), 1), threads=1)


def greedy(decoder: Decoder, tokens: list[int], count: int) -> list[int]:
    """The continuation, each token from the whole text anew."""
    kv = decoder.allocate_kv(64, 16)
    output: list[int] = []
    for _ in range(count):
        text = np.array(tokens + output, np.int32)
        starts, lengths = np.array([0, len(text)], np.int32), np.zeros(1, np.int32)
        table = np.arange(64, dtype=np.int32)[None, : -(-len(text) // 16)]
        logits = decoder.forward(Batch(text, starts, lengths, np.ascontiguousarray(table), starts[1:] - 1), kv)
        output.append(int(np.asarray(logits)[0].argmax()))
    return output


def context(slot: int, tokens: list[int], most: int = 8) -> Context:
    return Context(slot, np.array(tokens, np.int32), most)


def said(guess: Guess | None) -> list[int]:
    return [] if guess is None else list(guess.tokens)


def test_it_proposes_its_greedy_continuation_for_rows_of_all_lengths_and_after_rejections(decoder: Decoder) -> None:
    model = DraftModel(decoder, pages=64, page_size=16, context_length=512)
    draw = np.random.default_rng(2)
    rows = {slot: draw.integers(0, 96, 3 + 17 * slot).tolist() for slot in range(4)}
    lengths = []
    for _ in range(12):
        guesses = model.propose([context(slot, tokens) for slot, tokens in rows.items()], 4)
        for (slot, tokens), guess in zip(rows.items(), guesses, strict=True):
            proposed = said(guess)
            assert proposed
            assert proposed == greedy(decoder, tokens, len(proposed))
            lengths.append(len(proposed))
            kept = int(draw.integers(0, len(proposed) + 1))  # the rest is rejected
            rows[slot] = [*tokens, *proposed[:kept], int(draw.integers(0, 96))]
    assert max(lengths) == 4


def test_a_long_prompt_is_caught_up_with_in_chunks(decoder: Decoder) -> None:
    model = DraftModel(decoder, pages=64, page_size=16, context_length=512)
    text = np.random.default_rng(3).integers(0, 96, CATCH_UP + 50).tolist()
    short = [1, 2, 3]
    first = model.propose([context(0, text), context(1, short)], 2)
    assert said(first[0]) == []
    assert said(first[1]) == greedy(decoder, short, len(said(first[1])))
    second = model.propose([context(0, text)], 2)
    assert said(second[0])
    assert said(second[0]) == greedy(decoder, text, len(said(second[0])))


def test_pages_come_back_and_a_row_without_any_gets_no_draft(decoder: Decoder) -> None:
    model = DraftModel(decoder, pages=2, page_size=16, context_length=512)
    assert said(model.propose([context(0, [5] * 20)], 2)[0])
    assert said(model.propose([context(1, [6] * 20)], 2)[0]) == []
    model.drop(0)
    assert said(model.propose([context(1, [6] * 20)], 2)[0])


def test_a_slots_next_row_begins_from_nothing(decoder: Decoder) -> None:
    model = DraftModel(decoder, pages=8, page_size=16, context_length=512)
    model.propose([context(0, [5, 6, 7, 8])], 4)
    model.drop(0)
    guess = said(model.propose([context(0, [9, 6, 7, 8, 1])], 4)[0])
    assert guess
    assert guess == greedy(decoder, [9, 6, 7, 8, 1], len(guess))


def test_no_draft_goes_past_the_context(decoder: Decoder) -> None:
    model = DraftModel(decoder, pages=8, page_size=16, context_length=20)
    assert len(said(model.propose([context(0, [5] * 18)], 8)[0])) <= 2
    assert said(model.propose([context(1, [5] * 20)], 8)[0]) == []


def test_the_drafter_asks_a_model_that_is_right_and_stops_asking_one_that_is_wrong(decoder: Decoder) -> None:
    cost = StepCost(fixed=200.0, prefill=0.1, row=0.1, attended=0.0)  # a target that is slow beside its draft model
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    output = greedy(decoder, prompt, 60)

    def accepted_and_asked(follows: list[int]) -> tuple[int, int]:
        model = DraftModel(decoder, pages=64, page_size=16, context_length=512)
        drafter = Drafter(proposers=[model])
        tokens, known, accepted, asked = [*prompt, *follows], len(prompt), 0, 0
        drafter.start(0, known)
        while known < len(tokens) - 8:
            (draft,) = drafter.draft([context(0, tokens[:known])], cost, Work(0, 1, 0))
            if draft is not None and draft.source == "model":
                asked += 1
                for token in draft.tokens.tolist():
                    if token != tokens[known]:
                        break
                    known += 1
                    accepted += 1
            known += 1
        return accepted, asked

    right, _ = accepted_and_asked(output)
    assert right > 25
    noise = [int(token + 1) % 96 for token in np.random.default_rng(4).permutation(96)[:60]]
    _, asked = accepted_and_asked(noise)
    assert asked < 20


def test_a_model_that_fails_is_left_out() -> None:
    class Broken:
        source = "model"

        def expected_ms(self, contexts: object, depth: int) -> float:
            return 0.0

        def propose(self, contexts: object, depth: int) -> list[Guess | None]:
            raise RuntimeError("the draft model broke")

        def drop(self, slot: int) -> None:
            pass

    drafter = Drafter(proposers=[Broken()])
    drafter.start(0, 3)
    cost = StepCost(fixed=10.0, prefill=0.1, row=0.1, attended=0.0)
    assert drafter.draft([context(0, [1, 2, 3])], cost, Work(0, 1, 0)) == [None]
    assert drafter.draft([context(0, [1, 2, 3, 4])], cost, Work(0, 1, 0)) == [None]


@pytest.fixture(scope="module")
def target() -> LoadedModel:
    return load_model(MODEL)


def truncated(target: LoadedModel, layers: int) -> Decoder:
    """The model's first layers under its own head."""
    cut = dataclasses.replace(target.weights, layers=target.weights.layers[:layers])
    return build_decoder(dataclasses.replace(target.spec, layers=layers), cut)


def test_a_truncated_copy_of_the_target_drafts_some_of_what_it_says(target: LoadedModel) -> None:
    full = truncated(target, target.spec.layers)
    text = "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy dog. The quick"
    tokens = Vocabulary(target.vocabulary).encode(text)
    answer = greedy(full, tokens, 16)
    shares = []
    for layers in (target.spec.layers, target.spec.layers - 1):
        model = DraftModel(truncated(target, layers), pages=16, page_size=16, context_length=256)
        right = []
        for at in range(12):
            guess = said(model.propose([context(0, tokens + answer[:at])], 4)[0])
            right += [a == b for a, b in zip(guess, answer[at:], strict=False)]
        shares.append(sum(right) / len(right))
    assert shares[0] == 1
    assert 0.1 < shares[1] < 1


def test_another_vocabulary_is_refused_by_size_and_digest(target: LoadedModel) -> None:
    other = type(target.vocabulary)()
    other.CopyFrom(target.vocabulary)
    other.vocab_size += 64
    with pytest.raises(InvalidArgument, match=rf"{target.spec.vocab} tokens, sha256 [0-9a-f]+.*{other.vocab_size} tok"):
        load_draft_model(MODEL, other, lambda model: build_decoder(model.spec, model.weights))
    decoder = load_draft_model(MODEL, target.vocabulary, lambda model: build_decoder(model.spec, model.weights))
    assert decoder.spec.vocab == target.spec.vocab
