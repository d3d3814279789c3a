"""What a text is recognised by: embeddings of it and of its two parts, and its words.

A task says in its opening word what is to be done ("Review the login form") and in the rest to what. An embedding of
the whole blurs the two, hence three views of a text; a router uses all or the first, as its cross-validation says.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

VIEWS = 3
"""The whole, its first word, the rest."""
BUCKETS = 1 << 13
"""Words and pairs of words are counted by hash: no vocabulary to keep, none that a new example could lack."""
_WORD = re.compile(r"\w+")


class Features(NamedTuple):
    """Of n texts: `dense` [n, VIEWS * width], unit vectors side by side; `words` [n, BUCKETS], counts."""

    dense: NDArray[np.float32]
    words: sparse.csr_array

    def rows(self, chosen: NDArray) -> "Features":
        """Those of some texts."""
        return Features(self.dense[chosen], self.words[chosen])


class Query(NamedTuple):
    """Features of one text, for an answer: `dense` [VIEWS * width]; the BUCKETS of its words, rising, and how often
    each occurs. Sparse rows say the same for training; of one row they take longer than all else that an answer does.
    """

    dense: NDArray[np.float32]
    places: NDArray[np.intp]
    counts: NDArray[np.float32]


def views(text: str) -> tuple[str, str, str]:
    """The texts to embed for `text`. One of a single word is its own opening and its own rest."""
    parts = text.split(None, 1)
    return (text, parts[0], parts[1]) if len(parts) == 2 else (text, text, text)


def words(texts: Sequence[str]) -> sparse.csr_array:
    """Counts [n, BUCKETS] of words, of pairs of neighbours, and of the word a text begins with."""
    rows, columns = [], []
    for row, text in enumerate(texts):
        buckets = _buckets(text)
        rows += [row] * len(buckets)
        columns += buckets
    counts = sparse.coo_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(texts), BUCKETS))
    return counts.tocsr()


def query(dense: NDArray[np.float32], text: str) -> Query:
    """Of a text with these embeddings, the same words as `words` has it."""
    counted = sorted(Counter(_buckets(text)).items())
    places, counts = zip(*counted, strict=True) if counted else ((), ())
    return Query(dense, np.array(places, np.intp), np.array(counts, np.float32))


def _buckets(text: str) -> list[int]:
    found = _WORD.findall(text.lower())
    terms = [*found, *(f"{left} {right}" for left, right in pairwise(found))]
    terms += [f"^{found[0]}"] if found else []
    return [zlib.crc32(term.encode()) % BUCKETS for term in terms]


def rarity(counts: sparse.csr_array) -> NDArray[np.float32]:
    """Smoothed inverse document frequency [BUCKETS]; a word in no example weighs nothing."""
    seen = np.bincount(counts.indices, minlength=BUCKETS)
    return np.where(seen, np.log(len(counts.indptr) / (1 + seen)) + 1, 0).astype(np.float32)


def weighed(counts: sparse.csr_array, idf: NDArray[np.float32], length: float) -> sparse.csr_array:
    """Counts as tf-idf rows of this `length`, (1 + log tf) * idf."""
    values = counts.copy()
    values.data = (1 + np.log(values.data)) * idf[values.indices]
    lengths = np.sqrt(np.asarray(values.power(2).sum(axis=1)).ravel())
    values.data *= length / np.repeat(np.maximum(lengths, 1e-9), np.diff(values.indptr))
    return values


def weighed_words(asked: Query, idf: NDArray[np.float32], length: float) -> NDArray[np.float32]:
    """As `weighed`, of the words of one text: the values at its places."""
    values = (1 + np.log(asked.counts)) * idf[asked.places]
    return np.asarray(values * (length / max(math.sqrt(float(values @ values)), 1e-9)), np.float32)
