"""Which replica holds what: a session's KV, a prefix's pages. Bounded; the least recently used is forgotten."""

from collections import OrderedDict
from collections.abc import Sequence


class Affinity:
    """Remembers the replica that served a session last, and the one that last computed each prefix page."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._sessions: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._prefixes: OrderedDict[tuple[str, int], str] = OrderedDict()

    def served(self, tenant: str, session_id: str, prefix_hashes: Sequence[int], replica_id: str) -> None:
        """`replica_id` answered a request of this session with this prefix."""
        if session_id:
            self._put(self._sessions, (tenant, session_id), replica_id)
        for prefix in prefix_hashes:
            self._put(self._prefixes, (tenant, prefix), replica_id)

    def session(self, tenant: str, session_id: str) -> str | None:
        """The replica that served the session last."""
        return self._sessions.get((tenant, session_id)) if session_id else None

    def prefix_pages(self, tenant: str, prefix_hashes: Sequence[int]) -> dict[str, int]:
        """Leading pages by the replica that holds them. A page counts only while all before it lie on that replica."""
        counts: dict[str, int] = {}
        for index, prefix in enumerate(prefix_hashes):
            holder = self._prefixes.get((tenant, prefix))
            if holder is None or counts.get(holder, 0) < index:
                break
            counts[holder] = index + 1
        return counts

    def _put(self, table: OrderedDict, key: tuple, replica_id: str) -> None:
        table[key] = replica_id
        table.move_to_end(key)
        if len(table) > self._entries:
            table.popitem(last=False)
