"""The fast embedder that a client may ask for by name: wordllama's table, where that package is installed."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from actors.memory.embedder import by_characters, check_texts
from kernels.static_encoder import StaticEncoder, unit

MODEL = "wordllama-l2-supercat-256"
DIMENSIONS = (64, 128, 256)
"""What its vectors may be cut to: the lengths that it was trained at."""


def package() -> Path | None:
    """Where wordllama lies, found without importing it; None where it is not installed."""
    spec = find_spec("wordllama")
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


class StaticEmbedder:
    """Texts to unit vectors, a hundred times faster than a transformer. Its 35 MB are read when first asked for."""

    model = MODEL

    def __init__(self, directory: Path) -> None:
        """`directory` is wordllama's package."""
        self._directory = directory
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="static-embedder")
        self._encoder: StaticEncoder | None = None

    async def embed(self, texts: Sequence[str], dimensions: int = 0) -> tuple[NDArray[np.float32], int]:
        """Vectors [len(texts), dimensions or 256], L2-normalised, and the tokens read.

        Raises InvalidArgument past the limits of texts, and for dimensions that are none of DIMENSIONS.
        """
        if dimensions and dimensions not in DIMENSIONS:
            accepted = ", ".join(map(str, DIMENSIONS))
            raise InvalidArgument(f"dimensions is {dimensions}; accepted of {MODEL}: {accepted}", param="dimensions")
        check_texts(texts)
        loop = asyncio.get_running_loop()
        parts, tokens = [np.empty((0, DIMENSIONS[-1]), np.float32)], 0
        for some in by_characters(texts):
            vectors, read = await loop.run_in_executor(self._thread, self._embed, some)
            parts.append(vectors)
            tokens += read
        whole = np.concatenate(parts)
        return (unit(whole[:, :dimensions]) if dimensions else whole), tokens

    def _embed(self, texts: list[str]) -> tuple[NDArray[np.float32], int]:
        if self._encoder is None:
            weights = self._directory / "weights" / "l2_supercat_256.safetensors"
            words = self._directory / "tokenizers" / "l2_supercat_tokenizer_config.json"
            try:
                self._encoder = StaticEncoder.load(weights, words)
            except (OSError, ValueError) as error:
                raise InvalidArgument(
                    f"{MODEL} cannot be read: {error}; install wordllama again", param="model"
                ) from None
        return self._encoder.embed(texts)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
