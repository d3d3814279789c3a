"""Speculation says what the target would: token by token, and in distribution."""

import json
import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from actors.base.vocabulary import Vocabulary
from actors.worker import verify
from actors.worker.draft.draft import Context, Draft
from actors.worker.draft.drafter import Drafter
from actors.worker.engine import Engine, Reset
from actors.worker.ledger import Capacity, Ledger
from actors.worker.models import load_model
from actors.worker.step_cost import StepCost, Work
from kernels import cpu
from kernels.backend import build_decoder
from kernels.decoder import Int32
from tests.actors.worker.conftest import Scheduler, toy_logits
from tests.oracles.running import DATA

TEXT = DATA / "text" / "gsm8k_train.jsonl"
PROMPTS, OUTPUT, AT_ONCE, PAGE_SIZE = 100, 16, 25, 16


class Eager(Drafter):
    """Verifies all that is proposed, as if tokens cost nothing."""

    def __init__(self) -> None:
        super().__init__(trees=False)
        self.drafted = 0

    def draft(self, contexts: Sequence[Context], cost: StepCost | None, beside: Work) -> list[Draft | None]:
        drafts = super().draft(contexts, StepCost(10.0, 0.0, 1e-4, 0.0), Work(0, len(contexts), 0))
        self.drafted += sum(len(draft.tokens) for draft in drafts if draft is not None)
        self.pause = 0
        return drafts


@pytest.fixture(scope="module")
def answers() -> Callable[..., list[list[int]]]:
    """answers(drafter, **sampling): of the real model, to prompts that are to be continued and repeated."""
    model = load_model("smollm2-135m-instruct")
    decoder = build_decoder(model.spec, model.weights, backend="cpu", threads=2)
    vocabulary = Vocabulary(model.vocabulary)
    lines = TEXT.read_text("utf-8").splitlines()[:PROMPTS]
    prompts = []
    for number, line in enumerate(lines):
        text = json.loads(line)["question"][: 60 + number % 60]
        prompts.append(vocabulary.encode(f"{text}\n\nThe same again:\n\n{text[: number % 40]}"))

    def make(drafter: Drafter | None, count: int, **sampling: Any) -> list[list[int]]:
        outputs = []
        for first in range(0, count, AT_ONCE):
            batch = prompts[first : first + AT_ONCE]
            pages = sum(-(-(len(prompt) + OUTPUT) // PAGE_SIZE) for prompt in batch)
            slab = decoder.allocate_kv(pages, PAGE_SIZE)
            engine = Engine(decoder, slab, max_rows=AT_ONCE, context_length=512, drafter=drafter)
            engine.submit(Reset(1))
            ledger = Ledger(1, Capacity(pages, PAGE_SIZE, AT_ONCE, 512, 512, model.spec.vocab, slab.tiers, False))
            rows = Scheduler(engine, ledger, free=list(range(pages)), page_size=PAGE_SIZE)
            for row, prompt in enumerate(batch):
                length = len(prompt) + OUTPUT
                rows.start(row, prompt, max_length=length, limit=length, **sampling, seed=1000 * first + row)
            said = rows.run(step_tokens=512)
            outputs += [said[row] for row in range(len(batch))]
        return outputs

    return make


@pytest.mark.skipif(not TEXT.is_file(), reason=f"no text at {TEXT}: set RUSSET_DATA to where it is")
@pytest.mark.skipif(not cpu.available(), reason=cpu.reason() or "kernels.cpu is here")
@pytest.mark.parametrize(
    ("count", "sampling"), [(PROMPTS, {}), (PROMPTS // 2, {"temperature": 0.8})], ids=["greedy", "seeded"]
)
def test_answers_are_the_same_with_and_without(
    answers: Callable[..., list[list[int]]], count: int, sampling: dict[str, float]
) -> None:
    drafter = Eager()
    plain, drafted = answers(None, count, **sampling), answers(drafter, count, **sampling)
    assert [row for row in range(count) if plain[row] != drafted[row]] == []
    assert drafter.drafted > 5 * count
    assert {len(answer) for answer in plain} == {OUTPUT}


ALLOWED = (3, 17, 40, 77)
PROMPT = (5, 6, 7)
SAMPLES, ROWS = 3200, 32
HEAT = 2.0
"""Temperature: the toy is rather sure of itself."""
SURPRISED = 1e-4


class Likeliest:
    """Drafts what the model finds likeliest, two tokens deep: as a chain or with a second branch."""

    def __init__(self, branches: bool) -> None:
        self.pause = 0
        self._branches = branches

    def start(self, slot: int, prompt_tokens: int, pool: bytes, reference: Int32) -> None:
        pass

    def drop(self, slot: int, tokens: Int32) -> None:
        pass

    def draft(self, contexts: Sequence[Context], cost: StepCost | None, beside: Work) -> list[Draft | None]:
        return [self._draft(context.tokens.tolist()) if context.most >= 2 else None for context in contexts]

    def _draft(self, tokens: list[int]) -> Draft:
        first, second = _ranked(tokens)[:2]
        nodes = [first, _ranked([*tokens, first])[0]]
        parents = [-1, 0]
        if self._branches:
            nodes, parents = [*nodes, second], [*parents, -1]
        return Draft(np.array(nodes, np.int32), np.array(parents, np.int32), [0.5] * len(nodes), "model")


def _ranked(tokens: list[int]) -> list[int]:
    logits = toy_logits(tokens)
    return sorted(ALLOWED, key=lambda token: -float(logits[token]))


def _chances(tokens: Sequence[int]) -> np.ndarray:
    logits = toy_logits(tokens)[list(ALLOWED)].astype(np.float64) / HEAT
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _surprise(outputs: Sequence[Sequence[int]]) -> float:
    """How likely outputs of three tokens are, or less likely ones: Pearson's chi-square over all 64 of them."""
    cells = list(product(range(len(ALLOWED)), repeat=3))
    expected = np.array([
        np.prod([_chances([*PROMPT, *(ALLOWED[i] for i in cell[:at])])[cell[at]] for at in range(3)]) for cell in cells
    ])  # fmt: skip
    places = {tuple(ALLOWED[i] for i in cell): number for number, cell in enumerate(cells)}
    observed = np.bincount([places[tuple(output)] for output in outputs], minlength=len(cells))
    rare = expected * len(outputs) < 5
    expected = np.append(expected[~rare], expected[rare].sum()) * len(outputs)
    observed = np.append(observed[~rare], observed[rare].sum())
    freedom = len(expected) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    # Wilson and Hilferty 1931: the cube root of it is close to normal.
    spread = 2 / (9 * freedom)
    return math.erfc(((statistic / freedom) ** (1 / 3) - 1 + spread) / math.sqrt(2 * spread)) / 2


def _sampled(toy: Any, scheduler: Any, drafter: Any) -> list[list[int]]:
    """The first three tokens of SAMPLES outputs from ALLOWED, each with a seed of its own."""
    bias = {token: -100.0 for token in range(96) if token not in ALLOWED}
    outputs = []
    for first in range(0, SAMPLES, ROWS):
        rows = scheduler(toy, drafter=drafter, max_rows=ROWS)
        for row in range(ROWS):
            rows.start(
                row, PROMPT, max_length=len(PROMPT) + 5, limit=len(PROMPT) + 5, temperature=HEAT, seed=first + row,
                logit_bias=bias,
            )  # fmt: skip
        outputs += [output[:3] for output in rows.run(step_tokens=256).values()]
    return outputs


@pytest.mark.parametrize(
    "drafter", [None, Likeliest(branches=False), Likeliest(branches=True)], ids=["plain", "chain", "tree"]
)
def test_samples_are_of_the_targets_distribution(toy, scheduler, drafter) -> None:
    assert _surprise(_sampled(toy, scheduler, drafter)) > SURPRISED


def test_a_verifier_that_accepts_too_much_shows(toy, scheduler, monkeypatch) -> None:
    """One that takes every fourth guess that was not drawn."""
    walk = verify.walked
    calls = 0

    def lenient(draft: Any, drawn: list[int], stop_ids: list[int]) -> Any:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            drawn = [draft.tokens[0], *drawn[1:]]
        return walk(draft, drawn, stop_ids)

    monkeypatch.setattr(verify, "walked", lenient)
    assert _surprise(_sampled(toy, scheduler, Likeliest(branches=False))) < SURPRISED / 1e6
