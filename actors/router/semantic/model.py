"""A named router as trained: from features to a label, how sure that is, and whether the text is in scope at all.

    examples ── views, words ──> head (logistic regression) ──┐
                           └───> neighbours (HNSW, votes) ────┴─ mixed, sharpened ──> probabilities

How many views, how much weight the head has and how sharp the mixture is are chosen on examples held out in turn; so
are the scope threshold and what it is a threshold of. Training is a function of the examples alone: a router is rebuilt
from them, to the same answers.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from actors.router.semantic import head, neighbours, scope
from actors.router.semantic.calibration import expected_calibration_error, log_softmax, sharpness
from actors.router.semantic.features import VIEWS, Features, Query, rarity, weighed, weighed_words
from actors.router.semantic.scope import unit

FOLDS = 5
MIXTURES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Weights of the head. Neighbours always have a say: through them outcomes count that came after training."""
WORDS = 0.5
"""Length of the words' row beside unit embeddings."""
MANY = 4000
"""With more examples only the whole text is looked at: what its parts add, so many examples tell as well."""
ALTERNATIVES, SHOWN = 3, 3


class Quality(NamedTuple):
    """Of answers to examples held out in turn, each 0..1."""

    accuracy: float
    calibration_error: float


class Near(NamedTuple):
    """An example's place, and its cosine with the text."""

    place: int
    cosine: float


class Decision(NamedTuple):
    """Labels with their probabilities, the likeliest first; the scope score; the nearest examples."""

    ranked: list[tuple[str, float]]
    scope: float
    near: list[Near]


class _Held(NamedTuple):
    """What head and neighbours say of each example when they have not seen it: logits and log shares [n, classes].

    `nearest` [n] is the cosine of the nearest example.
    """

    logits: NDArray[np.float32]
    votes: NDArray[np.float32]
    nearest: NDArray[np.float32]


class Fitted(NamedTuple):
    """What training finds. `targets` are places in `labels`, -1 for examples from outside the scope."""

    labels: list[str]
    targets: NDArray[np.intp]
    views: int
    """How many of a text's views are looked at: 1 or all."""
    head_weight: float
    sharpness: float
    nearness: float
    """Weight of the nearest example's cosine in the scope score."""
    threshold: float
    quality: Quality
    rarity: NDArray[np.float32]
    head: head.Head


def fit(features: Features, given: Sequence[str]) -> Fitted:
    """Train on `features` of texts and the label `given` to each (empty: out of scope).

    Raises InvalidArgument where fewer than two labels have two examples or more: with less nothing can be held out.
    """
    counts = Counter(label for label in given if label)
    labels = sorted(counts)
    if len([label for label in labels if counts[label] > 1]) < 2:
        raise InvalidArgument(
            f"{len(given)} examples of {len(labels)} labels; accepted are two labels or more with two examples or more",
            param="examples",
        )
    numbers = {label: place for place, label in enumerate(labels)} | {"": -1}
    targets = np.array([numbers[label] for label in given], np.intp)
    inside, outside = features.rows(np.flatnonzero(targets >= 0)), features.rows(np.flatnonzero(targets < 0))
    known = targets[targets >= 0]
    _, views, weight, mixed, held = min(_tried(inside, known, len(labels)), key=lambda each: each[0])
    factor = sharpness(mixed, known)
    probabilities = np.exp(log_softmax(mixed * factor))
    right = probabilities.argmax(axis=1) == known
    idf = rarity(inside.words)
    dense, words = _dense(inside, views), weighed(inside.words, idf, WORDS)
    fitted = head.fit(dense, words, known, len(labels))
    nearness = scope.chosen(dense, words, known, len(labels))
    abroad = _dense(outside, views)
    strangers = scope.score(
        fitted.logits(abroad, weighed(outside.words, idf, WORDS)),
        neighbours.exact(unit(abroad), unit(dense)).cosines[:, 0],
        nearness,
    )
    return Fitted(
        labels,
        targets,
        views,
        weight,
        factor,
        nearness,
        scope.threshold(scope.score(held.logits, held.nearest, nearness), strangers),
        Quality(float(right.mean()), expected_calibration_error(probabilities.max(axis=1), right.astype(float))),
        idf,
        fitted,
    )


def _tried(
    features: Features, targets: NDArray[np.intp], classes: int
) -> Iterator[tuple[float, int, float, NDArray[np.float32], _Held]]:
    """Each way to answer: its loss, its views, its head's weight, what it says, and of what that was mixed."""
    folds = _folds(targets)
    for views in [1] if len(targets) > MANY else [1, VIEWS]:
        held = _held_out(features, targets, classes, folds, views)
        for weight in MIXTURES:
            mixed = _mixed(held.logits, held.votes, weight)
            yield _loss(mixed, targets), views, weight, mixed, held


def _held_out(
    features: Features, targets: NDArray[np.intp], classes: int, folds: NDArray[np.intp], views: int
) -> _Held:
    logits = np.zeros((len(targets), classes), np.float32)
    votes, nearest = np.zeros_like(logits), np.zeros(len(targets), np.float32)
    dense = _dense(features, views)
    for fold in np.unique(folds):
        seen, unseen = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        words = weighed(features.words, rarity(features.words[seen]), WORDS)
        fitted = head.fit(dense[seen], words[seen], targets[seen], classes)
        logits[unseen] = fitted.logits(dense[unseen], words[unseen])
        found = neighbours.exact(unit(dense[unseen]), unit(dense[seen]))
        votes[unseen] = neighbours.votes(found, targets[seen], classes)
        nearest[unseen] = found.cosines[:, 0]
    return _Held(logits, votes, nearest)


class Classifier:
    """A trained router at work: what training found, and an index of the examples in scope."""

    def __init__(self, fitted: Fitted, dense: NDArray[np.float32]) -> None:
        """`dense` are the features' of the very texts that `fitted` was trained on, [n, VIEWS * width]."""
        self.fitted = fitted
        self._inside = np.flatnonzero(fitted.targets >= 0)
        self._targets = fitted.targets[self._inside]
        whole = dense[self._inside, : fitted.views * dense.shape[1] // VIEWS]
        self._neighbours = neighbours.Neighbours(unit(whole))
        self._standing = np.ones(len(self._inside), np.float32)
        self._rows = {int(place): row for row, place in enumerate(self._inside)}

    def believe(self, place: int, weight: float) -> None:
        """Multiply the votes of the example at `place` by `weight` from now on; examples from outside have none."""
        if (row := self._rows.get(place)) is not None:
            self._standing[row] = weight

    def classify(self, asked: Query) -> Decision:
        """Of one text."""
        fitted = self.fitted
        dense = asked.dense[: fitted.views * len(asked.dense) // VIEWS]
        logits = fitted.head.logits_of(dense, asked.places, weighed_words(asked, fitted.rarity, WORDS))[None]
        found = self._neighbours.nearest(dense / max(math.sqrt(float(dense @ dense)), 1e-9))
        votes = neighbours.votes(found, self._targets, len(fitted.labels), self._standing)
        mixed = _mixed(logits, votes, fitted.head_weight)
        probabilities = np.exp(log_softmax(mixed * fitted.sharpness))[0]
        best = np.argsort(-probabilities, kind="stable")[: 1 + ALTERNATIVES]
        return Decision(
            [(fitted.labels[place], float(probabilities[place])) for place in best],
            float(scope.score(logits, found.cosines[:, 0], fitted.nearness)[0]),
            [
                Near(int(self._inside[place]), float(cosine))
                for place, cosine in zip(found.places[0, :SHOWN], found.cosines[0, :SHOWN], strict=True)
            ],
        )


def _dense(features: Features, views: int) -> NDArray[np.float32]:
    return features.dense[:, : views * features.dense.shape[1] // VIEWS]


def _folds(targets: NDArray[np.intp]) -> NDArray[np.intp]:
    """A fold for each example: those of a class are dealt out in turn, in an order that does not follow the file's."""
    order = np.random.default_rng(0).permutation(len(targets))
    by_class = order[np.argsort(targets[order], kind="stable")]
    folds = np.empty(len(targets), np.intp)
    folds[by_class] = np.arange(len(targets)) % FOLDS
    return folds


def _mixed(logits: NDArray[np.float32], votes: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    return np.asarray(weight * log_softmax(logits) + (1 - weight) * votes, np.float32)


def _loss(mixed: NDArray[np.float32], targets: NDArray[np.intp]) -> float:
    sharp = log_softmax(mixed * sharpness(mixed, targets))
    return -float(sharp[np.arange(len(targets)), targets].mean())
