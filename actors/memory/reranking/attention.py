"""The scorer: a small graph attention (Velickovic et al. 2018) over the evidence of each candidate passage. Pure NumPy.

    h_e = tanh(W f_e + b)                         of each edge e that leads to the passage, from its features f_e
    attention = softmax(c, a h_1, ..., a h_n)     c is the passage itself: nothing is to be said
    score = g * cosine + u . sum of attention_e h_e

A passage that no edge leads to scores its cosine: without usage the order is similarity's. Trained by the gradient of
the cross-entropy of the scores' softmax, over candidates, with the passage that was used.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SHIPPED = Path(__file__).parent / "weights.json"
"""Made by deploy/ship_graph_reranker.py."""


class Weights(NamedTuple):
    """Of the scorer, for `features` of an edge and `hidden` numbers of a message."""

    w: Array
    """[features, hidden]."""
    b: Array
    """[hidden]."""
    a: Array
    """[hidden]."""
    u: Array
    """[hidden]."""
    c: Array
    """[1]: logit of the passage itself."""
    g: Array
    """[1]: scale of the cosine."""


class Evidence(NamedTuple):
    """A question's candidates and the edges that lead to each."""

    cosines: Array
    """[candidates]."""
    edges: Array
    """[candidates, edges, features]; zeros where there is none."""
    there: NDArray[np.bool_]
    """[candidates, edges]."""


def drawn(features: int, hidden: int, seed: int) -> Weights:
    """Weights to begin training with."""
    draw = np.random.default_rng(seed)
    return Weights(
        w=draw.normal(0, features**-0.5, (features, hidden)),
        b=np.zeros(hidden),
        a=draw.normal(0, hidden**-0.5, hidden),
        u=draw.normal(0, hidden**-0.5, hidden),
        c=np.zeros(1),
        g=np.full(1, 10.0),
    )


def scores(weights: Weights, evidence: Evidence) -> Array:
    """Of each candidate; only their order means something."""
    return _forward(weights, evidence)[0]


def loss_and_gradient(weights: Weights, evidence: Evidence, used: int) -> tuple[float, Weights]:
    """Cross-entropy of the candidates' softmax with the one that was `used`, and its gradient."""
    found, messages, hidden, attention = _forward(weights, evidence)
    shares = np.exp(found - found.max())
    shares /= shares.sum()
    by_score = shares.copy()
    by_score[used] -= 1
    by_message = by_score[:, None] * weights.u
    # Of softmax: attention_e (d_e - sum of attention d), where the passage itself has message 0.
    by_attention = np.einsum("nk,nek->ne", by_message, hidden)
    mean = (attention * by_attention).sum(1)
    by_logit = attention * (by_attention - mean[:, None])
    itself = 1 - attention.sum(1)
    by_hidden = attention[:, :, None] * by_message[:, None, :] + by_logit[:, :, None] * weights.a
    by_linear = by_hidden * (1 - hidden**2) * evidence.there[:, :, None]
    gradient = Weights(
        w=np.einsum("nef,nek->fk", evidence.edges, by_linear),
        b=by_linear.sum((0, 1)),
        a=np.einsum("ne,nek->k", by_logit, hidden),
        u=by_score @ messages,
        c=np.array([-(itself * mean).sum()]),
        g=np.array([by_score @ evidence.cosines]),
    )
    return float(-np.log(max(shares[used], 1e-300))), gradient


def dump(weights: Weights) -> str:
    """As text."""
    return json.dumps({name: np.round(value, 6).tolist() for name, value in weights._asdict().items()})


def load(path: Path = SHIPPED) -> Weights:
    """What `dump` wrote."""
    return Weights(**{name: np.asarray(value, float) for name, value in json.loads(path.read_text()).items()})


def _forward(weights: Weights, evidence: Evidence) -> tuple[Array, Array, Array, Array]:
    """Scores [n], messages [n, hidden], hidden [n, edges, hidden] and the edges' attention [n, edges]."""
    hidden = np.tanh(evidence.edges @ weights.w + weights.b)
    logits = np.where(evidence.there, hidden @ weights.a, -np.inf)
    most = np.maximum(logits.max(1, initial=-np.inf), weights.c[0])
    raised = np.exp(logits - most[:, None])
    attention = raised / (raised.sum(1) + np.exp(weights.c[0] - most))[:, None]
    messages = np.einsum("ne,nek->nk", attention, hidden)
    return weights.g[0] * evidence.cosines + messages @ weights.u, messages, hidden, attention
