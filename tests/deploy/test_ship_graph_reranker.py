"""Training on usage beats similarity where questions share passages, and gains nothing where edges lead anywhere."""

import numpy as np
import pytest

from deploy.ship_graph_reranker import Asked, Corpus, asked, fit, gains, interval

PASSAGES, SHARING, WIDTH = 40, 8, 48


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def texts() -> tuple[Corpus, np.ndarray, np.ndarray]:
    """Questions of a passage are like each other and only a little like it."""
    draw = np.random.default_rng(7)
    passages, centres = draw.normal(size=(2, PASSAGES, WIDTH))
    own = np.arange(PASSAGES).repeat(SHARING)
    questions = centres[own] + 0.3 * passages[own] + 0.5 * draw.normal(size=(len(own), WIDTH))
    corpus = Corpus([""] * PASSAGES, [""] * len(own), own, own < PASSAGES // 2, None)
    return corpus, unit(passages), unit(questions)


def mrr(weights: object, some: Asked) -> np.ndarray:
    return gains(weights, some)[:, 2]  # type: ignore[arg-type]


def test_it_learns_from_usage_what_questions_not_seen_share(texts: tuple[Corpus, np.ndarray, np.ndarray]):
    weights = fit([asked(*texts, learned=True, seed=seed) for seed in range(3)])
    held_out = asked(*texts, learned=False, seed=100)
    assert set(held_out.own) == set(range(PASSAGES // 2, PASSAGES))
    plain, ours = gains(None, held_out), gains(weights, held_out)
    low, high = interval(ours - plain, held_out.own)
    assert 0 < low[2] < high[2]
    shuffled = asked(*texts, learned=False, seed=100, shuffled=True)
    assert mrr(weights, shuffled).mean() <= mrr(None, shuffled).mean() + 0.02


def test_a_question_asked_now_has_no_edge_of_its_own(texts: tuple[Corpus, np.ndarray, np.ndarray]):
    corpus, passages, questions = texts
    # All of a passage's questions are new: nothing may lead to it but edges that are wrong.
    before = corpus.own != PASSAGES - 1
    some = asked(corpus._replace(asked_before=before), passages, questions, learned=False, seed=1)
    assert set(some.own) == {PASSAGES - 1}
    assert len(some.evidence) == SHARING
    for evidence, right in zip(some.evidence, some.right, strict=True):
        # A question's own edge would be as close as can be.
        assert evidence.edges[right, :, 0].max(initial=0.0) < 0.9
