"""Train the graph attention that ships with Russet, and report how it orders passages for questions held out.

python -m deploy.ship_graph_reranker $RUSSET_DATA

Passages that several questions share: the groups of json_schema/draft2020-12, each a passage (description and schema);
their tests are questions (description and data). Half of the questions, at random, were asked before: each has an edge
to its passage. The others are asked now. Beside it answers of text/gsm8k_train.jsonl, which similarity finds well: the
first half of each question was asked before, the second is asked now.

The scorer learns from half of the keywords (files), and of the answers; it is held against similarity on the others.
Usage is not clean: a share of edges leads to a passage that was retrieved and wrong, ratings say so of half of these
and praise some of the right ones, and edges are up to 60 days old. Ratings and ages are drawn; texts and who shares
what are real.
"""

import asyncio
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.memory.embedder import Embedder
from actors.memory.reranking.attention import SHIPPED, Evidence, Weights, drawn, dump, loss_and_gradient, scores
from actors.memory.reranking.evidence import FEATURES, evidence_of, leads_of
from actors.memory.reranking.reranker import NEAREST, POOL
from protos.gen.memory_pb2 import Edge

HIDDEN, EPOCHS, BATCH, RATE, DECAY = 16, 6, 32, 0.02, 1e-4
DRAWS = 3
"""Times that earlier and new questions are drawn to learn from."""
ANSWERS = 1500
WRONG, CONDEMNED, PRAISED = 0.15, 0.5, 0.4
"""Shares: of edges that lead to a wrong passage; of these, rated badly; of right ones, rated well."""
USED_WEIGHT, BAD_WEIGHT, SIMILAR, MOST_SIMILAR, RETRIEVED = 0.5, 0.02, 0.85, 8, 5
HALF_LIFE_DAYS, OLDEST_DAYS, DAY_MS = 30.0, 60.0, 86_400_000
STORE_EDGES = 16
RESAMPLES = 2000
Array = NDArray[np.float32]
Means = NDArray[np.float64]


class Corpus(NamedTuple):
    """Passages, and questions with the passage that answers each. `parts` keeps training and test apart."""

    passages: list[str]
    questions: list[str]
    own: NDArray[np.int64]
    parts: NDArray[np.bool_]
    """Of questions: whether they may be learned from."""
    asked_before: NDArray[np.bool_] | None
    """Which questions are the earlier ones; None where that is drawn."""


class Asked(NamedTuple):
    """Questions as the scorer reads them, and where in the pool the right passage of each is; -1 where it is not."""

    evidence: list[Evidence]
    right: list[int]
    own: NDArray[np.int64]


class Figures(NamedTuple):
    """Means over questions: first, among the first five, reciprocal rank, and nDCG at 10."""

    recall_1: float
    recall_5: float
    mrr: float
    ndcg_10: float


def schemas(data: Path) -> Corpus:
    """The JSON Schema suite."""
    passages: list[str] = []
    questions: list[str] = []
    own: list[int] = []
    files: list[str] = []
    for path in sorted((data / "json_schema" / "draft2020-12").rglob("*.json")):
        groups = json.loads(path.read_text())
        for group in groups if isinstance(groups, list) else []:
            for test in group["tests"]:
                questions.append(f"{test['description']}: {json.dumps(test['data'])}"[:600])
                own.append(len(passages))
                files.append(path.stem)
            passages.append(f"{group['description']}\n{json.dumps(group['schema'])}"[:1500])
    names = np.random.default_rng(1).permutation(sorted(set(files)))
    learned = set(names[::2])
    return Corpus(passages, questions, np.array(own), np.array([each in learned for each in files]), None)


def answers(data: Path, learned: bool) -> Corpus:
    """Answers of GSM8K: the first ones to learn from, the next for the test."""
    passages: list[str] = []
    questions: list[str] = []
    lines = (data / "text" / "gsm8k_train.jsonl").read_text().splitlines()
    for line in lines[:ANSWERS] if learned else lines[ANSWERS : 2 * ANSWERS]:
        row = json.loads(line)
        sentences = re.split(r"(?<=[.?!]) +", row["question"].strip())
        if len(sentences) > 1:
            half = len(sentences) // 2
            questions += [" ".join(sentences[:half]), " ".join(sentences[half:])]
            passages.append(re.sub(r"<<.*?>>", "", row["answer"]))
    own = np.arange(len(passages)).repeat(2)
    before = np.arange(len(questions)) % 2 == 0
    return Corpus(passages, questions, own, np.full(len(questions), learned), before)


def asked(
    corpus: Corpus, passages: Array, questions: Array, learned: bool, seed: int, *, shuffled: bool = False
) -> Asked:
    """New questions of a part, after the earlier ones of the whole corpus. `shuffled`: edges lead anywhere."""
    draw = np.random.default_rng(seed)
    before = draw.random(len(corpus.own)) < 0.5 if corpus.asked_before is None else corpus.asked_before
    past, own = questions[before], corpus.own[before]
    edges = _usage(past @ passages.T, own, draw, shuffled)
    similar = _similar(past)
    degrees = _popular(past @ passages.T, own)
    new = np.flatnonzero(~before & (corpus.parts == learned))
    evidence, right = [], []
    for number in new:
        cosines = passages @ questions[number]
        pool = np.argsort(-cosines, kind="stable")[:POOL]
        near = past @ questions[number]
        first = np.argsort(-near)[:NEAREST].tolist()
        read = [*degrees, *(edge for each in first for edge in (*similar[each], edges[each]))]
        onward = {int(edge.target.removeprefix("query:")) for each in first for edge in similar[each]} - set(first)
        read += [edges[each] for each in sorted(onward)]
        leads = leads_of({f"query:{each}": float(near[each]) for each in first}, read, ["store:s"])
        evidence.append(evidence_of([f"passage:{each}" for each in pool], cosines[pool].tolist(), leads))
        place = np.flatnonzero(pool == corpus.own[number])
        right.append(int(place[0]) if len(place) else -1)
    return Asked(evidence, right, corpus.own[new])


def fit(parts: Sequence[Asked], seed: int = 0) -> Weights:
    """Adam on the cross-entropy of the right passage."""
    draw = np.random.default_rng(seed)
    rows = [row for part in parts for row in zip(part.evidence, part.right, strict=True) if row[1] >= 0]
    weights = drawn(FEATURES, HIDDEN, seed)
    first = second = Weights(*map(np.zeros_like, weights))
    step = 0
    for epoch in range(EPOCHS):
        order, total = draw.permutation(len(rows)), 0.0
        for at in range(0, len(order), BATCH):
            found = [loss_and_gradient(weights, *rows[row]) for row in order[at : at + BATCH]]
            total += sum(loss for loss, _ in found)
            step += 1
            means = [sum(each) / len(found) for each in zip(*(gradient for _, gradient in found), strict=True)]
            means = [mean + DECAY * value for mean, value in zip(means, weights, strict=True)]
            first = Weights(*(0.9 * held + 0.1 * mean for held, mean in zip(first, means, strict=True)))
            second = Weights(*(0.999 * held + 0.001 * mean**2 for held, mean in zip(second, means, strict=True)))
            rate = RATE * (1 - epoch / EPOCHS) * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            weights = Weights(
                *(value - rate * m / (np.sqrt(v) + 1e-8) for value, m, v in zip(weights, first, second, strict=True))
            )
        print(f"epoch {epoch}: {total / len(rows):.4f}", flush=True)
    return weights


def gains(weights: Weights | None, some: Asked) -> Means:
    """[questions, 4] of Figures; without weights, those of similarity."""
    rows = []
    for evidence, right in zip(some.evidence, some.right, strict=True):
        found = evidence.cosines if weights is None else scores(weights, evidence)
        place = int((found > found[right]).sum()) if right >= 0 else POOL
        there = place < POOL
        rows.append([place < 1, place < 5, there / (place + 1), (place < 10) / np.log2(place + 2)])
    return np.array(rows, float)


def interval(differences: Means, own: NDArray[np.int64]) -> tuple[Means, Means]:
    """95 % bootstrap interval of the means, over passages (`own`): questions that share one are not independent."""
    draw = np.random.default_rng(0)
    names, at = np.unique(own, return_inverse=True)
    sums = np.zeros((len(names), differences.shape[1]))
    np.add.at(sums, at, differences)
    counts = np.bincount(at)
    samples = [draw.integers(len(names), size=len(names)) for _ in range(RESAMPLES)]
    means = [sums[each].sum(0) / counts[each].sum() for each in samples]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def embedded(texts: Sequence[str], embedder: Embedder) -> Array:
    """Unit vectors [texts, width]."""
    return np.concatenate([asyncio.run(embedder.embed(texts[at : at + 512]))[0] for at in range(0, len(texts), 512)])


def _usage(cosines: Array, own: NDArray[np.int64], draw: np.random.Generator, shuffled: bool) -> list[Edge]:
    """The edge of each earlier question to the passage that it used."""
    targets = draw.permutation(own) if shuffled else own
    edges = []
    for number, target in enumerate(targets):
        wrong = draw.random() < WRONG
        rated = draw.random() < (CONDEMNED if wrong else PRAISED)
        if wrong:
            others = [each for each in np.argsort(-cosines[number])[: RETRIEVED + 1] if each != target]
            target = others[draw.integers(len(others))]
        weight = (BAD_WEIGHT if wrong else 1.0) if rated else USED_WEIGHT
        days = draw.uniform(0, OLDEST_DAYS)
        edges.append(
            Edge(
                source=f"query:{number}",
                target=f"passage:{target}",
                kind="used",
                weight=weight * 0.5 ** (days / HALF_LIFE_DAYS),
                age_ms=int(days * DAY_MS),
                uses=1,
            )
        )
    return edges


def _similar(past: Array) -> dict[int, list[Edge]]:
    found: dict[int, list[Edge]] = {}
    for number, row in enumerate(past @ past.T):
        row[number] = -1
        near = [each for each in np.argsort(-row)[:MOST_SIMILAR] if row[each] > SIMILAR]
        found[number] = [
            Edge(source=f"query:{number}", target=f"query:{each}", kind="similar", weight=row[each], uses=1)
            for each in near
        ]
    return found


def _popular(cosines: Array, own: NDArray[np.int64]) -> list[Edge]:
    """Edges of the vector store: +5 % of a passage retrieved and used, -2 % of one retrieved in vain."""
    weights: dict[int, float] = defaultdict(float)
    uses: Counter[int] = Counter()
    for number, row in enumerate(cosines):
        for passage in np.argsort(-row)[:RETRIEVED]:
            used = passage == own[number]
            uses[passage] += used
            weights[passage] = min(max(weights[passage] + (0.05 if used else -0.02), 0.0), 1.0)
    best = sorted(weights, key=lambda passage: -weights[passage])[:STORE_EDGES]
    return [
        Edge(source="store:s", target=f"passage:{each}", kind="used", weight=weights[each], uses=uses[each])
        for each in best
        if weights[each] > 0
    ]


def held_out(data: Path, embedder: Embedder) -> tuple[list[Asked], dict[str, Asked]]:
    """What is learned from; and by name, what it is held against."""
    suite, known, unknown = schemas(data), answers(data, True), answers(data, False)
    rows = [(embedded(each.passages, embedder), embedded(each.questions, embedder)) for each in (suite, known, unknown)]
    learned = [asked(suite, *rows[0], True, seed) for seed in range(DRAWS)] + [asked(known, *rows[1], True, 0)]
    against = {
        "JSON Schema": asked(suite, *rows[0], False, 100),
        "the same, edges shuffled": asked(suite, *rows[0], False, 100, shuffled=True),
        "GSM8K": asked(unknown, *rows[2], False, 100),
    }
    return learned, against


def main(data: Path) -> None:
    """Embed, train, write, report."""
    embedder = Embedder(None)
    learned, against = held_out(data, embedder)
    embedder.close()
    weights = fit(learned)
    SHIPPED.write_text(dump(weights) + "\n")
    print(f"{SHIPPED}: {SHIPPED.stat().st_size} bytes")
    for name, some in against.items():
        plain, ours = gains(None, some), gains(weights, some)
        low, high = interval(ours - plain, some.own)
        print(f"{name}: {len(plain)} questions")
        print("  similarity", Figures(*plain.mean(0).round(4).tolist()))
        print("  usage     ", Figures(*ours.mean(0).round(4).tolist()))
        print("  difference, from", Figures(*low.round(4).tolist()))
        print("              to  ", Figures(*high.round(4).tolist()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
