"""Units of KV by page id: which tier an id belongs to, whether it begins a unit, and what ids a unit has."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.decoder import Int32, KvTier


class Units:
    """The ids of a slab's tiers: 0 .. count - 1, tier after tier, f16 first."""

    def __init__(self, tiers: Sequence[KvTier]) -> None:
        """`tiers` as kernels.decoder.Kv has them."""
        self.tiers = tuple(tiers)
        self._first = np.array([tier.first_page for tier in tiers], np.int32)
        self._pages = np.array([tier.unit_pages for tier in tiers], np.int32)
        last = self.tiers[-1]
        self.count = last.first_page + last.units * last.unit_pages

    def tier_of(self, ids: Int32) -> NDArray[np.intp]:
        """Index of each id's tier; larger is coarser, 0 is f16."""
        return np.searchsorted(self._first, ids, side="right") - 1

    def begins(self, ids: Int32) -> NDArray[np.bool_]:
        """Whether each id is the first of a unit."""
        tier = self.tier_of(ids)
        return (ids - self._first[tier]) % self._pages[tier] == 0

    def pages_of(self, units: Int32) -> Int32:
        """All ids of blocks [U] named by their first -> [U, unit_pages]."""
        return units[:, None] + np.arange(self._pages[-1], dtype=np.int32)

    def misplaced(self, source: Int32, target: Int32) -> str | None:
        """Why source [U * unit_pages] cannot be demoted into the blocks target [U], or None. Ids are in range."""
        size = int(self._pages[-1])
        if len(source) != len(target) * size:
            return f"{len(source)} pages for {len(target)} blocks of {size} pages"
        into = self.tier_of(target)
        if (wrong := target[(into == 0) | ~self.begins(target)]).size:
            return f"page {wrong[0]} is not the first of a quantized block"
        groups = source.reshape(-1, size)
        of = self.tier_of(groups)
        whole = self.begins(groups[:, 0]) & (groups == self.pages_of(groups[:, 0])).all(axis=1)
        fits = (of == of[:, :1]).all(axis=1) & (of[:, 0] < into) & ((of[:, 0] == 0) | whole)
        if not fits.all():
            at = int(np.argmin(fits))
            return (
                f"pages {groups[at].tolist()} for block {target[at]}: want pages of f16, or a whole block of more bits"
            )
        if len(np.unique(source)) < len(source) or len(np.unique(target)) < len(target):
            return "a page is demoted, or a block filled, twice"
        filled_at = {int(block): at for at, block in enumerate(target)}
        for at, page in enumerate(groups[:, 0].tolist()):
            if filled_at.get(page, at) < at:
                return f"block {page} is filled and demoted by the same plan"
        return None
