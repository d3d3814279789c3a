"""Training and answering, on features made for it: what can be told apart is, and the numbers mean what they say."""

import numpy as np
import pytest

from actors.base.errors import InvalidArgument
from actors.router.semantic import neighbours
from actors.router.semantic.calibration import auroc, expected_calibration_error, sharpness
from actors.router.semantic.features import (
    BUCKETS,
    VIEWS,
    Features,
    Query,
    query,
    rarity,
    views,
    weighed,
    weighed_words,
    words,
)
from actors.router.semantic.head import Head
from actors.router.semantic.model import Classifier, fit

WIDTH, CLASSES, EACH = 16, 4, 20
LABELS = ["apple", "pear", "plum", "quince"]


def made(seed: int, spread: float, directions: np.ndarray) -> Features:
    """EACH texts around each of `directions`, in all views."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(directions, EACH, axis=0) + spread * rng.normal(size=(len(directions) * EACH, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Features(np.tile(rows, VIEWS).astype(np.float32), words(["a text"] * len(rows)))


def asked(features: Features, row: int) -> Query:
    """One of them, as a question."""
    return query(features.dense[row], "a text")


@pytest.fixture(scope="module")
def directions() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]


@pytest.fixture(scope="module")
def trained(directions: np.ndarray) -> Classifier:
    features = made(1, 0.1, directions[:CLASSES])
    given = [label for label in LABELS for _ in range(EACH)]
    return Classifier(fit(features, given), features.dense)


def test_unseen_texts_get_their_label(trained: Classifier, directions: np.ndarray) -> None:
    unseen = made(2, 0.1, directions[:CLASSES])
    given = [label for label in LABELS for _ in range(EACH)]
    decisions = [trained.classify(asked(unseen, row)) for row in range(len(given))]
    assert np.mean([decision.ranked[0][0] == label for decision, label in zip(decisions, given, strict=True)]) > 0.95
    assert trained.fitted.quality.accuracy > 0.95
    for decision in decisions:
        assert [share for _, share in decision.ranked] == sorted((share for _, share in decision.ranked), reverse=True)
        assert sum(share for _, share in decision.ranked) == pytest.approx(1, abs=1e-4)  # four labels are all shown


def test_a_text_from_elsewhere_is_out_of_scope(trained: Classifier, directions: np.ndarray) -> None:
    strangers = made(3, 0.1, directions[CLASSES : 2 * CLASSES])
    friends = made(4, 0.1, directions[:CLASSES])
    inside = [trained.classify(asked(friends, row)).scope for row in range(CLASSES * EACH)]
    outside = [trained.classify(asked(strangers, row)).scope for row in range(CLASSES * EACH)]
    assert auroc(np.array(inside), np.array(outside)) > 0.95
    assert np.mean(np.array(inside) >= trained.fitted.threshold) > 0.85


def test_examples_from_outside_move_the_border(directions: np.ndarray) -> None:
    features = made(1, 0.1, directions[: CLASSES + 1])
    given = [label for label in LABELS for _ in range(EACH)] + [""] * EACH
    with_strangers = fit(features, given)
    classifier = Classifier(with_strangers, features.dense)
    assert with_strangers.labels == LABELS
    unseen = made(5, 0.1, directions[CLASSES : CLASSES + 1])
    scores = [classifier.classify(asked(unseen, row)).scope for row in range(EACH)]
    assert np.mean(np.array(scores) < with_strangers.threshold) > 0.9


def test_neighbours_are_named_by_their_place_among_all_examples(directions: np.ndarray) -> None:
    """Examples from outside the scope come first here, and are in no index: places must not slip by them."""
    features = made(1, 0.1, np.concatenate([directions[CLASSES : CLASSES + 1], directions[:CLASSES]]))
    given = [""] * EACH + [label for label in LABELS for _ in range(EACH)]
    classifier = Classifier(fit(features, given), features.dense)
    for row in (EACH, 3 * EACH + 7):
        near = classifier.classify(asked(features, row)).near[0]
        assert near.place == row
        assert near.cosine == pytest.approx(1, abs=0.01)


def test_the_same_examples_train_the_same_router(directions: np.ndarray, trained: Classifier) -> None:
    again = fit(made(1, 0.1, directions[:CLASSES]), [label for label in LABELS for _ in range(EACH)])
    assert again.threshold == trained.fitted.threshold
    np.testing.assert_array_equal(again.head.dense, trained.fitted.head.dense)


@pytest.mark.parametrize("given", [["a", "a", "a"], ["a", "b", ""], ["", "", ""], []])
def test_too_little_to_learn_from_is_refused(given: list[str]) -> None:
    features = Features(np.ones((len(given), VIEWS), np.float32), words(["x"] * len(given)))
    with pytest.raises(InvalidArgument, match="two labels"):
        fit(features, given)


def test_views_of_a_text() -> None:
    assert views("Review  the form") == ("Review  the form", "Review", "the form")
    assert views("Review") == ("Review", "Review", "Review")


def test_a_word_that_no_example_has_weighs_nothing() -> None:
    idf = rarity(words(["red fox", "red hen"]))
    row = weighed(words(["red newt"]), idf, 1.0)
    assert np.linalg.norm(row.toarray()) == pytest.approx(1)
    assert len(row.data[row.data > 0]) == 2  # red, and red in front
    assert weighed(words([""]), idf, 1.0).nnz == 0


@pytest.mark.parametrize("text", ["", "red", "Red fox, red fox; a RED fox?", "a newt nobody saw", "北京 café café"])
def test_a_question_has_the_numbers_that_training_gives_its_text(text: str) -> None:
    rng = np.random.default_rng(1)
    examples = ["red fox", "red hen", "a fox saw the red hen", "café in 北京"]
    idf = rarity(words(examples))
    one = query(rng.normal(size=8).astype(np.float32), text)
    row = weighed(words([text]), idf, 0.5)
    np.testing.assert_allclose(weighed_words(one, idf, 0.5), row.toarray()[0, one.places], rtol=1e-6)
    assert set(row.indices) == set(one.places)
    head = Head(*(rng.normal(size=shape).astype(np.float32) for shape in ((8, 3), (BUCKETS, 3), (3,))))
    together = head.logits(one.dense[None], row)[0]
    np.testing.assert_allclose(
        head.logits_of(one.dense, one.places, weighed_words(one, idf, 0.5)), together, rtol=1e-4, atol=1e-6
    )


def test_words_alone_can_tell() -> None:
    """Embeddings that are all the same leave the keywords."""
    texts = [f"{verb} it {number}" for verb in ("deploy", "review") for number in range(10)]
    features = Features(np.ones((20, VIEWS * 2), np.float32), words(texts))
    classifier = Classifier(fit(features, [text.split()[0] for text in texts]), features.dense)
    assert classifier.classify(query(np.ones(VIEWS * 2, np.float32), "review it 99")).ranked[0][0] == "review"


def test_the_index_finds_what_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index, right = neighbours.Neighbours(vectors), neighbours.exact(vectors[:100], vectors)
    recall = [np.isin(index.nearest(vectors[row]).places[0], right.places[row]).mean() for row in range(100)]
    assert np.mean(recall) > 0.95


def test_calibration_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(5000, 3)).astype(np.float32)
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(3, p=share) for share in shares])
    assert sharpness(honest * 5, targets) == pytest.approx(0.2, rel=0.1)
    right = (shares.argmax(axis=1) == targets).astype(float)
    assert expected_calibration_error(shares.max(axis=1), right) < 0.03
    assert expected_calibration_error(np.ones(5000), right) > 0.2


def test_auroc() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([0.0, 3.0]), np.array([1.0])) == 0.5
