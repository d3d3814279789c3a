"""The state of one row's grammar: what it consumed, what is certain to follow, and the way out where time is short."""

from collections.abc import Iterable

from llguidance import LLMatcher

from actors.base.grammar import reason
from actors.worker.closing import EVERY, MARGIN, Closer


class Matcher:
    """One row's: the state of its grammar after `known` tokens of the row, the last of them perhaps only guessed."""

    def __init__(self, state: LLMatcher, known: int, max_length: int = 0, closer: Closer | None = None) -> None:
        """`closer` is given where the structure is to be closed before the row has max_length tokens."""
        self.state = state
        self.known = known
        self._max_length = max_length
        self._closer = closer
        self._way: list[int] | None = None
        """Where the row is on its way out: what is still to be said."""
        self._forced: list[int] = []
        """The tokens after `known` about which there is no choice; found by `foresee`."""
        self._foresaid: list[int] = []
        self.look()

    def consumed(self, token: int) -> None:
        """The state has taken one more token."""
        self.known += 1
        self._forced.clear()
        if self._way:
            del self._way[0]
        self.look()

    def consume(self, tokens: Iterable[int]) -> None:
        """Take tokens one by one; where one is not of the grammar the state is an error."""
        for token in tokens:
            self.state.consume_token(token)
            self.consumed(token)

    def foresay(self, tokens: list[int]) -> None:
        """Take forced tokens, of which it is not known yet whether they become the row's: the step may fail."""
        self.consume(tokens)
        self._foresaid = tokens

    def rewind(self, known: int) -> None:
        """Give back what was foresaid past `known`: the step that had done so is run again."""
        count = self.known - known
        if count > 0:
            self.state.rollback(count)
            self.known = known
            self._forced.clear()
            if self._way is not None:
                self._way[:0] = self._foresaid[-count:]

    def foresee(self) -> bool:
        """Find what is certain to follow; whether that is more than the one token that is about to be drawn."""
        if self._way is not None:
            self._forced = self._way[:]
        elif self.state.is_error() or self.state.is_stopped():
            self._forced = []
        else:
            self._forced = self.state.compute_ff_tokens()
        return len(self._forced) > 1

    def forced(self, known: int) -> list[int]:
        """What is certain to follow the first `known` tokens of the row, as far as `foresee` saw."""
        return self._forced[known - self.known :] if known >= self.known else []

    def room(self, known: int) -> int | None:
        """Most tokens that may be drafted after `known`; None sets no limit.

        A way out is looked for at fixed places, and may be found there: nothing is guessed past one.
        """
        if self._closer is None or self._way is not None:
            return None
        return max((self._max_length - known) % EVERY - 1, 0)

    def look(self) -> None:
        """Find the way out where it is time to look for it, and take it where it is time to."""
        left = self._max_length - self.known
        if self._closer is None or self._way is not None or left % EVERY or self.state.is_error():
            return
        way = self._closer.way(self.state, left - 1)
        if way is not None and len(way) + EVERY + MARGIN >= left:
            self._way = way

    @property
    def way(self) -> list[int]:
        """The only tokens that may be drawn, where the row is on its way out; else empty."""
        return self._way or []

    @property
    def error(self) -> str:
        """Why no mask can be had; empty where one can."""
        return reason(self.state.get_error()) if self.state.is_error() else ""
