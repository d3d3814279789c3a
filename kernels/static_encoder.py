"""A static sentence encoder: the mean of a text's token vectors from a table, which costs little more than tokenizing.

The table of wordllama (the package's l2_supercat_256): rows of a large model's token embeddings, trained so that their
mean tells sentences apart and that a vector's first components do so too (Kusupati et al. 2022, Matryoshka).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from kernels.decoder import Float32

SLICE = 4096
"""Tokens looked up at a time: 4096 x 256 floats are 4 MiB."""


class StaticEncoder:
    """Embeds texts of any length. Usable from any thread."""

    def __init__(self, table: Float32, tokenizer: Tokenizer) -> None:
        """`table` is [tokens, width]."""
        self._table = table
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def load(cls, weights: Path, tokenizer: Path) -> "StaticEncoder":
        """Read a safetensors file with one table of two dimensions, and a tokenizer.json.

        Raises OSError for a missing file, ValueError for one of another kind.
        """
        for path in (weights, tokenizer):
            if not path.is_file():
                raise FileNotFoundError(f"{path} does not exist; a static encoder's file is wanted")
        try:
            tables = list(load_file(weights).values())
        except SafetensorError as error:
            raise ValueError(f"{weights} is no safetensors file: {error}") from error
        words = Tokenizer.from_file(str(tokenizer))
        if len(tables) != 1 or tables[0].ndim != 2 or len(tables[0]) < words.get_vocab_size():
            shapes = [table.shape for table in tables]
            raise ValueError(f"{weights} has tables of {shapes}; accepted: one, [{words.get_vocab_size()}, width]")
        return cls(tables[0].astype(np.float32), words)

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return self._table.shape[1]

    def embed(self, texts: Sequence[str]) -> tuple[Float32, int]:
        """Vectors [n, width] of length 1, and the tokens read. A text without any token is read as an unknown one."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        tokens = 0
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            ids = encoding.ids or [0]
            tokens += len(ids)
            for start in range(0, len(ids), SLICE):
                vectors[row] += self._table[ids[start : start + SLICE]].sum(axis=0)
        return unit(vectors), tokens


def unit(vectors: Float32) -> Float32:
    """The same directions, of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-30))
