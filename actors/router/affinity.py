"""Which replicas hold what: a session's KV, a prefix's pages. Bounded; the least recently used is forgotten."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

HOLDERS = 4
"""Replicas remembered for a prefix page, the latest first: a system prompt that all share lies on many."""


class Home(NamedTuple):
    """Where a session was served last."""

    replica_id: str
    prompt_tokens: int
    """Of its last request; 0 is not known."""
    answer_tokens: int


class Affinity:
    """Remembers the replica that served a session last, and those that last computed each prefix page.

    `entries` bounds either table. Tenants do not see each other's: neither their caches nor their timing are shared.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._sessions: OrderedDict[tuple[str, str], Home] = OrderedDict()
        self._prefixes: OrderedDict[tuple[str, int], tuple[str, ...]] = OrderedDict()

    def served(self, tenant: str, session_id: str, prefix_hashes: Sequence[int], home: Home) -> None:
        """A replica answered a request of this session with this prefix."""
        replica_id = home.replica_id
        if session_id:
            self._put(self._sessions, (tenant, session_id), home)
        # Backwards, so that of a prefix the last pages are forgotten first: without the first they are worth nothing.
        for prefix in reversed(prefix_hashes):
            others = (holder for holder in self._prefixes.get((tenant, prefix), ()) if holder != replica_id)
            self._put(self._prefixes, (tenant, prefix), (replica_id, *others)[:HOLDERS])

    def session(self, tenant: str, session_id: str) -> Home | None:
        """Where the session was served last."""
        return self._sessions.get((tenant, session_id)) if session_id else None

    def prefix_pages(self, tenant: str, prefix_hashes: Sequence[int]) -> dict[str, int]:
        """How many leading pages each replica holds. A page counts only where all before it lie there too."""
        pages: dict[str, int] = {}
        for count, prefix in enumerate(prefix_hashes):
            holders = [holder for holder in self._prefixes.get((tenant, prefix), ()) if pages.get(holder, 0) == count]
            if not holders:
                break
            pages.update((holder, count + 1) for holder in holders)
        return pages

    def _put(self, table: OrderedDict, key: tuple, value: object) -> None:
        table[key] = value
        table.move_to_end(key)
        if len(table) > self._entries:
            table.popitem(last=False)
