"""Runs of neighbouring free pages, found by length: what best fit needs to stay quick in a fragmented slab."""

from bisect import bisect_left, insort
from collections.abc import Iterable


class FreeRuns:
    """The free pages as maximal runs [start, start + length). Taking and giving back cost the same however many
    runs there are, but for a binary search over their different lengths.
    """

    def __init__(self, num_pages: int) -> None:
        self._length: dict[int, int] = {}
        self._start_by_end: dict[int, int] = {}
        # Length -> starts (a dict for its order, so that the choice is reproducible).
        self._starts: dict[int, dict[int, None]] = {}
        self._lengths: list[int] = []
        self._add(0, num_pages)

    def take(self, count: int) -> list[int]:
        """`count` pages: from the smallest run that holds them all, else from the longest runs first."""
        pages: list[int] = []
        while len(pages) < count:
            wanted = count - len(pages)
            # Past the last length: no run is long enough, so the longest is used up.
            place = min(bisect_left(self._lengths, wanted), len(self._lengths) - 1)
            length = self._lengths[place]
            start = next(iter(self._starts[length]))
            taken = min(wanted, length)
            self._remove(start)
            if length > taken:
                self._add(start + taken, length - taken)
            pages += range(start, start + taken)
        return pages

    def give_back(self, page: int) -> None:
        """One page is free again; it joins the runs beside it."""
        start, end = page, page + 1
        if (before := self._start_by_end.get(start)) is not None:
            start = before
            self._remove(before)
        if (after := self._length.get(end)) is not None:
            self._remove(end)
            end += after
        self._add(start, end - start)

    def pages(self) -> Iterable[int]:
        """Every free page."""
        return (page for start, length in self._length.items() for page in range(start, start + length))

    def _add(self, start: int, length: int) -> None:
        self._length[start] = length
        self._start_by_end[start + length] = start
        starts = self._starts.setdefault(length, {})
        if not starts:
            insort(self._lengths, length)
        starts[start] = None

    def _remove(self, start: int) -> None:
        length = self._length.pop(start)
        del self._start_by_end[start + length]
        starts = self._starts[length]
        del starts[start]
        if not starts:
            del self._starts[length]
            del self._lengths[bisect_left(self._lengths, length)]
