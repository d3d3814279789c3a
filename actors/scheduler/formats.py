"""How KV may be held, and which of it is old enough to be held in fewer bits."""

from collections.abc import Iterator
from typing import get_args

from actors.scheduler.config import KvFormat
from actors.scheduler.kv_pool import KvPool
from actors.scheduler.sequence import Sequence

FORMATS: tuple[str, ...] = get_args(KvFormat)
BLOCK_TOKENS = 64
"""Tokens of a quantized block."""

FINER = ("f16", "q8", "q4", "q2")
"""Tiers from the finest to the coarsest."""


def demotable(sequence: Sequence, format: str, tail_tokens: int, pool: KvPool) -> Iterator[list[int]]:
    """The pages of each block of a sequence that is computed, older than its tail, and held finer than `format`.

    A block of which only a part is shared with others stays as it is. `sequence.settled` moves on past those seen.
    """
    per_block = pool.unit_pages(format)
    if sequence.settled[0] != format:
        sequence.settled = format, 0
    for block in range(sequence.settled[1], num_old_blocks(sequence, tail_tokens)):
        pages = sequence.table.pages[block * per_block : (block + 1) * per_block]
        if is_finer(pages, format, pool):
            yield pages
        sequence.settled = format, block + 1


def num_old_blocks(sequence: Sequence, tail_tokens: int) -> int:
    """Whole blocks before the tail of what is computed."""
    return max(0, sequence.num_computed_tokens - tail_tokens) // BLOCK_TOKENS


def is_finer(pages: list[int], format: str, pool: KvPool) -> bool:
    """Whether a block's pages lie all in f16, or in a whole block of a tier that is finer than `format`."""
    forms = {pool.format_of(page) for page in pages}
    if len(forms) > 1:
        return False
    [form] = forms
    return FINER.index(form) < FINER.index(format) and (form == "f16" or pool.whole_unit(pages))
