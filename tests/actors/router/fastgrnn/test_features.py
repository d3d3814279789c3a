"""The 128 inputs: their table, and that none stays at one value."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.router.fastgrnn import patterns
from actors.router.fastgrnn.cell import INPUT
from actors.router.fastgrnn.features import BLOCKS, FAR, FREE, MODELS, Constraints, Served, features, scale_of
from actors.router.fastgrnn.form import DOMAINS, HEAD, LANGUAGE, SHAPE, TAIL, form

TEXTS = [
    "Which of the following is NOT a prime?\nA. 2\nB. 21\nC. 13\nD. 1,009\nAnswer:",
    "Statement 1 | Every group is a ring. Statement 2 | A field is a ring.\nA. True, True\nB. False\nAnswer:",
    "How many eggs does Ann sell? She has 12 hens. Each lays 3 eggs. She keeps 5%.",
    "```python\ndef add_one(x):\n    return x + 1\n```\nWhy does my_test fail? See https://example.org/a/b",
    '{"name": "x", "values": [1, 2]} <b>bold</b>',
    "Le patient a une fièvre et des douleurs, il ne veut pas de traitement: que faire pour lui?",
    "Что такое энергия?",
    "什么是能量？ 请解释。",
    "ما هي الطاقة؟",
    "Write a poem about the sea. " * 90,
    "The court found the defendant guilty ______ the statute. " * 8,
    "The patient has an infection; the physician gives a vaccine dose.",
    "The market price rose with demand and tax on income.",
    "A king and his government lost the war to the empire.",
    "The moral of the scenario: a child acts wrong by ethical belief.",
    "Energy and mass of an electron in a molecule: solve $E = mc^2$ \\frac{a}{b}",
    "Fix the bug in this python class: the api of the server must compile.",
    "hi",
]


def filled() -> np.ndarray:
    """Inputs of varied requests."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 64)).astype(np.float32)
    projection = patterns.projection("m", vectors)
    known = patterns.bank(projection(vectors), rng.integers(0, 2, (200, 2)).astype(np.float32))
    rows = []
    for place, text in enumerate(TEXTS):
        projected = projection(rng.standard_normal((1, 64)).astype(np.float32))
        told = patterns.statistics(known, projected)[0]
        shares = rng.random(2)
        constraints = Constraints(place * 100.0, shares[0], shares[1], place, 10 * place, 5, place % 3, place % 2 == 0)
        served = [Served(f"m{n}", n + 1.0, *rng.random(3).tolist()) for n in range(MODELS)]
        rows.append(features(text, projected[0], told, constraints, served))
    return np.stack(rows)


def test_the_blocks_cover_the_inputs_once() -> None:
    assert [(block.start, block.stop) for block in BLOCKS.values()] == [
        (0, 32),
        (32, 48),
        (48, 58),
        (58, 96),
        (96, 108),
        (108, 116),
        (116, INPUT),
    ]


def test_every_column_varies_over_varied_requests() -> None:
    names = [*SHAPE, *LANGUAGE, *DOMAINS, "other"]
    still = np.flatnonzero(filled().std(axis=0) == 0)
    assert not len(still), [names[column] if column < len(names) else column for column in still]


def test_a_long_prompt_is_read_at_both_ends_only() -> None:
    begin, end = "Read this. " * (HEAD // 11 + 1), " of words. " * (TAIL // 11 + 1) + "How many?"
    short, long = (form(begin + "x" * size + end) for size in (5_000, 50_000))
    assert short[0] < long[0]
    assert short[6:] == long[6:]


def test_what_is_not_known_is_taken_as_usual_and_what_never_varied_has_no_say() -> None:
    x = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, 2.0], [2.0, 5.0, 4.0]], np.float32)
    scale = scale_of(x)
    told = scale(np.array([[np.nan, 900.0, np.nan], [1e9, -3.0, 3.0]], np.float32))
    np.testing.assert_allclose(told, [[0, 0, 0], [FAR, 0, 0]], atol=1e-6)


def test_without_an_embedding_its_blocks_are_not_known() -> None:
    x = features("hello there", None, None, FREE, ())
    unknown = np.flatnonzero(np.isnan(x))
    assert unknown.tolist() == list(range(BLOCKS["embedding"].start, BLOCKS["patterns"].stop))


def test_neighbours_tell_what_became_of_them_and_never_of_a_twin() -> None:
    vectors = np.eye(40, 38, dtype=np.float32)
    outcomes = np.zeros((40, 2), np.float32)
    outcomes[3] = 0, 1
    known = patterns.bank(vectors, outcomes)
    seen = patterns.statistics(known, vectors[3:4])[0]
    hidden = patterns.statistics(known, vectors[3:4], [np.array([3])])[0]
    assert seen[0] == 1
    assert seen[4] == np.float32(0.1)
    assert hidden[0] < 1
    assert hidden[4] == 0


@given(st.text(max_size=3000))
@settings(deadline=None)
def test_any_text_has_a_form(text: str) -> None:
    told = np.array(form(text))
    assert told.shape == (BLOCKS["domain"].stop,)
    assert np.isfinite(told).all()
    assert told[BLOCKS["domain"]].sum() == 1
