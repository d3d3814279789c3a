"""What a text is recognised by: embeddings of it and of its two parts, and its words.

A task says in its opening word what is to be done ("Review the login form") and in the rest to what. An embedding of
the whole blurs the two, hence three views of a text; a router uses all or the first, as its cross-validation says.
"""

import re
import zlib
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


def views(text: str) -> tuple[str, str, str]:
    """The texts to embed for `text`. One of a single word is its own opening and its own rest."""
    parts = text.split(None, 1)
    return (text, parts[0], parts[1]) if len(parts) == 2 else (text, text, text)


def words(texts: Sequence[str]) -> sparse.csr_array:
    """Counts [n, BUCKETS] of words, of pairs of neighbours, and of the word a text begins with."""
    rows, columns = [], []
    for row, text in enumerate(texts):
        found = _WORD.findall(text.lower())
        terms = [*found, *(f"{left} {right}" for left, right in pairwise(found))]
        terms += [f"^{found[0]}"] if found else []
        rows += [row] * len(terms)
        columns += [zlib.crc32(term.encode()) % BUCKETS for term in terms]
    counts = sparse.coo_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(texts), BUCKETS))
    return counts.tocsr()


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
