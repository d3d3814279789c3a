"""The newest decisions of named routers, kept for what becomes of them."""

from collections import OrderedDict
from typing import NamedTuple

from actors.base.pattern_id import pattern_id

KEPT = 8192
SAME = 0.95
"""From this cosine on an example says what the text says: a label told of the text is the example's."""
NEAR = 0.8
"""From this cosine on an example answers for what it helped to decide."""


class Seen(NamedTuple):
    """An example that lay near a text."""

    text: str
    label: str
    cosine: float


class Decided(NamedTuple):
    """A text that a tenant's router answered, its label, and the examples nearest to it, the nearest first."""

    tenant: str
    router: str
    text: str
    label: str
    near: tuple[Seen, ...]

    @property
    def by(self) -> Seen | None:
        """The example that answers for the decision: the nearest of its label, where it is near at all."""
        return next((seen for seen in self.near if seen.label == self.label and seen.cosine > NEAR), None)

    @property
    def repeated(self) -> Seen | None:
        """The example that the text repeats, if it does."""
        return next((seen for seen in self.near if seen.cosine > SAME), None)

    @property
    def patterns(self) -> list[str]:
        """Ids of the examples near."""
        return [pattern_id(self.tenant, self.router, seen.text) for seen in self.near]

    @property
    def pattern(self) -> str:
        """Id of the one that answers for it; empty where none does."""
        return pattern_id(self.tenant, self.router, self.by.text) if self.by else ""


class Decisions:
    """By id; the oldest is forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Decided] = OrderedDict()

    def keep(self, decision_id: str, decided: Decided) -> None:
        """Remember."""
        self._kept[decision_id] = decided
        self._kept.move_to_end(decision_id)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def find(self, tenant: str, decision_id: str) -> Decided | None:
        """The tenant's decision, while it is known."""
        found = self._kept.get(decision_id)
        return found if found is not None and found.tenant == tenant else None
