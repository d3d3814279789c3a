"""What proposes for many rows at once, at a cost that has to be earned: a model, or a head of the target."""

from collections.abc import Sequence
from typing import Protocol

from actors.worker.draft.draft import Context
from actors.worker.draft.tree import Guess


class Proposer(Protocol):
    """Guesses for a batch of rows. Owned by the engine's thread, as its drafter is."""

    source: str
    """Of actors.worker.draft.acceptance.SOURCES."""

    def expected_ms(self, contexts: Sequence[Context], depth: int) -> float:
        """What `propose` would take; 0 while nothing is known of it."""
        ...

    def propose(self, contexts: Sequence[Context], depth: int) -> list[Guess | None]:
        """Up to `depth` tokens for each of `contexts`; None for a row of which it has nothing to say (yet)."""
        ...

    def drop(self, slot: int) -> None:
        """Forget a row, if it is known; the slot's next one begins from nothing."""
        ...
