"""Training of the cost router from questions that a small and a large model have both answered.

    rows ── features ──> teacher: ridge regression of (large right - small right) ── smooths single outcomes
                └──────> student: FastGRNN, taught the teacher's preference and the other heads' targets
    predictions held out in turn ──> Platt scaling of what it says, and how good it is

Single outcomes are mostly noise: three in four questions both models answer alike. The teacher's penalty is chosen on
folds within the training rows; near-duplicates of a prompt are always on the same side.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from actors.base.errors import InvalidArgument
from actors.router.fastgrnn import learning, patterns
from actors.router.fastgrnn.cell import (
    BUCKETS,
    CONFIDENCE,
    CONTEXT,
    HIDDEN,
    LARGE,
    MODEL,
    SMALL,
    TEMPERATURE,
    TOP_P,
    Weights,
    bucket,
    logits,
    sigmoid,
    softmax,
    step,
)
from actors.router.fastgrnn.cost import CostRouter, Platt, Quality
from actors.router.fastgrnn.features import BLOCKS, FREE, Scale, features, scale_of
from actors.router.fastgrnn.metric import compare, recovered
from actors.router.semantic.calibration import expected_calibration_error

FOLDS = 5
PENALTIES = (0.3, 1.0, 3.0, 10.0)
"""Tried for the teacher, times the number of rows."""
LEAST = 200
"""Rows with an outcome: with fewer nothing can be told of a score's worth."""
UNKNOWN = float("nan")
PLAN = learning.Plan()
_WORD = re.compile(r"\w+")
ALIKE, COMMON = 0.5, 10


class Row(NamedTuple):
    """A prompt and what is known of it; NaN is not known."""

    prompt: str
    small: float = UNKNOWN
    """1 where the small model's answer was right, 0 where not; `large` likewise. Both are known or neither."""
    large: float = UNKNOWN
    tokens: float = UNKNOWN
    """Of prompt and answer together."""
    temperature: float = UNKNOWN
    top_p: float = UNKNOWN


class Trained(NamedTuple):
    """A router, and what it was judged by: `rows` [m] (places among those given) and log odds of small held out."""

    router: CostRouter
    rows: NDArray[np.intp]
    odds: NDArray[np.float64]


class Lessons(NamedTuple):
    """Rows as training reads them. `plain` [n, INPUT] has all inputs but those of block "patterns"."""

    rows: list[Row]
    plain: NDArray[np.float32]
    projected: NDArray[np.float32]
    groups: NDArray[np.intp]
    outcomes: NDArray[np.float32]
    """[n, 2]."""
    projection: patterns.Projection

    def only(self, chosen: NDArray) -> "Lessons":
        """Some of them."""
        return Lessons(
            [self.rows[place] for place in chosen],
            self.plain[chosen],
            self.projected[chosen],
            self.groups[chosen],
            self.outcomes[chosen],
            self.projection,
        )


class Taught(NamedTuple):
    """A student with what it needs to answer."""

    weights: Weights
    scale: Scale
    bank: patterns.Bank


def lessons(rows: Sequence[Row], vectors: NDArray[np.float32], projection: patterns.Projection) -> Lessons:
    """What is learned from, of rows with their embeddings [n, width]. Raises InvalidArgument for too few outcomes."""
    outcomes = np.array([(row.small, row.large) for row in rows], np.float32)
    known = ~np.isnan(outcomes).any(axis=1)
    gap = float((outcomes[known, 1] - outcomes[known, 0]).sum())
    if known.sum() < LEAST or gap <= 0:
        raise InvalidArgument(
            f"{int(known.sum())} rows with both outcomes, of which the large model answers {gap:+.0f} more right; "
            f"accepted are {LEAST} or more, and a large model that is right more often",
            param="rows",
        )
    projected = projection(vectors)
    plain = np.stack([features(row.prompt, here, None, FREE, ()) for row, here in zip(rows, projected, strict=True)])
    return Lessons(list(rows), plain, projected, near_duplicates([row.prompt for row in rows]), outcomes, projection)


def fit(
    rows: Sequence[Row],
    vectors: NDArray[np.float32],
    embedder: str,
    before: CostRouter | None = None,
    plan: learning.Plan = PLAN,
) -> Trained:
    """A router trained on `rows`: anew, or on from `before` (EWC) where that does better on rows held out.

    Raises InvalidArgument as `lessons` does.
    """
    given = lessons(rows, vectors, patterns.projection(embedder, vectors))
    known = np.flatnonzero(~np.isnan(given.outcomes[:, 0]))
    if before is not None and before.projection.embedder == embedder:
        continued = lessons(rows, vectors, before.projection)
        # Other folds than those that judge the choice in the end.
        anew, on = (
            recovered(held_out(each, plan, start, seed=1)[0], *given.outcomes[known].T).mean()
            for each, start in ((given, None), (continued, before))
        )
        given, before = (continued, before) if on > anew else (given, None)
    else:
        before = None
    odds, sure, right = held_out(given, plan, before)
    enough, confidence, quality = _judged(given.outcomes[known], _lengths(given)[known], odds, sure, right)
    taught, inputs, targets = _teach(given, plan, before)
    fisher = learning.fisher(taught.weights, inputs[:, None], targets)
    router = CostRouter(
        taught.weights, taught.scale, given.projection, taught.bank, enough, confidence, fisher, quality
    )
    return Trained(router, known, odds)


def held_out(
    given: Lessons, plan: learning.Plan, before: CostRouter | None = None, seed: int = 0
) -> tuple[NDArray, NDArray, NDArray]:
    """Of rows with outcomes, none of which the answering student has seen: log odds, confidence's, was it right."""
    known = np.flatnonzero(~np.isnan(given.outcomes[:, 0]))
    folds = dealt(given.groups, FOLDS, seed)
    odds, sure = np.zeros(len(given.rows)), np.zeros(len(given.rows))
    for fold in range(FOLDS):
        unseen = np.intersect1d(np.flatnonzero(folds == fold), known)
        taught, _, _ = _teach(given.only(np.flatnonzero(folds != fold)), plan, before)
        outputs = answer(taught, given.only(unseen))
        odds[unseen] = outputs[:, MODEL][:, SMALL] - outputs[:, MODEL][:, LARGE]
        sure[unseen] = outputs[:, CONFIDENCE]
    right = np.where(odds[known] >= 0, given.outcomes[known, 0], given.outcomes[known, 1])
    return odds[known], sure[known], right


def answer(taught: Taught, asked: Lessons) -> NDArray[np.float32]:
    """The heads' outputs [n, OUTPUTS] on rows that the student has not seen."""
    inputs = _with_patterns(asked, taught.bank, None)
    return logits(
        taught.weights, step(taught.weights, taught.scale(inputs), np.zeros((len(inputs), HIDDEN), np.float32))
    )


def _teach(
    given: Lessons, plan: learning.Plan, before: CostRouter | None
) -> tuple[Taught, NDArray[np.float32], learning.Targets]:
    """A student, and the scaled inputs [n, INPUT] and targets [n, 1, ...] that it was taught with."""
    known = np.flatnonzero(~np.isnan(given.outcomes[:, 0]))
    bank = patterns.bank(given.projected[known], given.outcomes[known])
    raw = _with_patterns(given, bank, _twins(given, known))
    scale = scale_of(raw)
    if before is not None:
        seen = before.scale.factor > 0
        scale = Scale(np.where(seen, before.scale.mean, scale.mean), np.where(seen, before.scale.factor, scale.factor))
    x = scale(raw)
    gain = _teacher(x[known], given.outcomes[known, 1] - given.outcomes[known, 0], given.groups[known])(x)
    targets = _targets(given, gain)
    anchor = None
    if before is not None:
        anchor = learning.Anchor(before.weights, before.fisher)
        targets = _filled(targets, before.weights, x)
    turns, wanted = _sessions(x, targets, plan.seed)
    return Taught(learning.train(turns, wanted, plan, anchor), scale, bank), x, targets


def _teacher(x: NDArray, gain: NDArray, groups: NDArray) -> Any:
    """Ridge regression of `gain` [n] on `x`, its penalty chosen by held-out squared error."""

    def solved(rows: NDArray, penalty: float) -> tuple[NDArray, float]:
        mean = float(gain[rows].mean())
        square = x[rows].T.astype(float) @ x[rows] + penalty * len(rows) * np.eye(x.shape[1])
        return np.linalg.solve(square, x[rows].T @ (gain[rows] - mean)), mean

    folds = dealt(groups, FOLDS, 1)
    lost = []
    for penalty in PENALTIES:
        total = 0.0
        for fold in range(FOLDS):
            slope, mean = solved(np.flatnonzero(folds != fold), penalty)
            total += float(np.square(gain[folds == fold] - mean - x[folds == fold] @ slope).sum())
        lost.append(total)
    slope, mean = solved(np.arange(len(x)), PENALTIES[int(np.argmin(lost))])
    return lambda inputs: inputs @ slope + mean


def _targets(given: Lessons, gain: NDArray) -> learning.Targets:
    """What the heads are taught: [n, 1, ...] each.

    The model head gets the teacher's gain as standard deviations from its mean, through a sigmoid: as such it is even
    between the tiers, and the differences that matter are not small beside those of the other heads.
    """
    small = sigmoid(-(gain - gain.mean()) / max(float(gain.std()), 1e-9))
    context = np.full((len(gain), len(BUCKETS)), np.nan)
    for place, row in enumerate(given.rows):
        if not np.isnan(row.tokens):
            context[place] = np.eye(len(BUCKETS))[bucket(int(row.tokens))]
    chosen = np.where(small >= 0.5, given.outcomes[:, 0], given.outcomes[:, 1])
    columns = (
        np.stack([small, 1 - small], axis=1),
        context,
        np.array([row.temperature for row in given.rows]),
        np.array([row.top_p for row in given.rows]),
        chosen,
    )
    return learning.Targets(*(each[:, None].astype(np.float32) for each in columns))


def _filled(targets: learning.Targets, weights: Weights, x: NDArray[np.float32]) -> learning.Targets:
    """`targets`, and what `weights` say where they tell nothing: a head without new lessons keeps to the old ones."""
    outputs = logits(weights, step(weights, x, np.zeros((len(x), HIDDEN), np.float32)))
    said = learning.Targets(
        softmax(outputs[:, MODEL])[:, None],
        softmax(outputs[:, CONTEXT])[:, None],
        2 * sigmoid(outputs[:, TEMPERATURE])[:, None],
        sigmoid(outputs[:, TOP_P])[:, None],
        sigmoid(outputs[:, CONFIDENCE])[:, None],
    )
    return learning.Targets(*(np.where(np.isnan(a), b, a) for a, b in zip(targets, said, strict=True)))


def _sessions(x: NDArray, targets: learning.Targets, seed: int) -> tuple[NDArray, learning.Targets]:
    """Each row as a first turn, and another at random as the second: what was said before must not unsettle it."""
    second = np.random.default_rng(seed).permutation(len(x))
    turns = np.stack([x, x[second]], axis=1)
    return turns, learning.Targets(*(np.concatenate([each, each[second]], axis=1) for each in targets))


def _judged(
    outcomes: NDArray, lengths: NDArray, odds: NDArray, sure: NDArray, right: NDArray
) -> tuple[Platt, Platt, Quality]:
    """Calibration on predictions held out; its error by folds of these again, so that no row calibrates itself."""
    small, large = outcomes[:, 0], outcomes[:, 1]
    enough = (small >= large).astype(float)
    folds = np.random.default_rng(2).permutation(len(odds)) % FOLDS
    told, trusted = np.zeros(len(odds)), np.zeros(len(odds))
    for fold in range(FOLDS):
        rest, here = folds != fold, folds == fold
        told[here] = platt(odds[rest], enough[rest])(odds[here])
        trusted[here] = platt(sure[rest], right[rest])(sure[here])
    quality = Quality(
        len(odds),
        compare(odds, None, small, large),
        compare(odds, -lengths, small, large),
        expected_calibration_error(told, enough),
        expected_calibration_error(trusted, right),
    )
    return platt(odds, enough), platt(sure, right), quality


def platt(odds: NDArray, happened: NDArray) -> Platt:
    """The line with which `odds` [n] tell best what `happened` [n]."""

    def loss(line: NDArray) -> float:
        value = np.exp(line[0]) * odds + line[1]
        return float((np.logaddexp(0, value) - happened * value).mean())

    found: Any = minimize(loss, np.zeros(2), method="Nelder-Mead")
    return Platt(float(np.exp(found.x[0])), float(found.x[1]))


def _with_patterns(given: Lessons, bank: patterns.Bank, twins: list[NDArray] | None) -> NDArray[np.float32]:
    inputs = given.plain.copy()
    inputs[:, BLOCKS["patterns"]] = patterns.statistics(bank, given.projected, twins)
    return inputs


def _twins(given: Lessons, known: NDArray) -> list[NDArray]:
    """Of each row the places in the bank of the rows `known` that belong to its group."""
    kept = known[patterns.kept(len(known))]
    places: dict[int, list[int]] = {}
    for place, row in enumerate(kept):
        places.setdefault(int(given.groups[row]), []).append(place)
    return [np.array(places.get(int(group), []), np.intp) for group in given.groups]


def _lengths(given: Lessons) -> NDArray:
    return np.array([len(row.prompt) for row in given.rows], float)


def dealt(groups: NDArray[np.intp], folds: int, seed: int) -> NDArray[np.intp]:
    """A fold for each row [n]; rows of one group share it."""
    names, place = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % folds)[place]


def near_duplicates(prompts: Sequence[str]) -> NDArray[np.intp]:
    """A group for each prompt [n]: those share one that have half of the shorter one's rarer word triples in common."""
    triples = []
    for prompt in prompts:
        found = _WORD.findall(prompt.lower())
        triples.append(set(zip(found, found[1:], found[2:], strict=False)))
    seen = Counter(triple for each in triples for triple in each)
    rare = [{triple for triple in each if seen[triple] <= COMMON} for each in triples]
    having: dict[tuple, list[int]] = {}
    group = list(range(len(prompts)))

    def root(place: int) -> int:
        while group[place] != place:
            group[place] = group[group[place]]
            place = group[place]
        return place

    for place, each in enumerate(rare):
        shared = Counter(other for triple in each for other in having.get(triple, ()))
        for other, count in shared.items():
            if count >= ALIKE * min(len(each), len(rare[other])):
                group[root(place)] = root(other)
        for triple in each:
            having.setdefault(triple, []).append(place)
    return np.array([root(place) for place in range(len(prompts))], np.intp)
