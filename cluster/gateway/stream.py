"""Tokens to text, a token at a time: whole UTF-8 characters only, ended exactly at a stop string."""

import codecs
from collections.abc import Iterable, Sequence

from actors.base.vocabulary import Vocabulary


class TextStream:
    """The text of one answer as its tokens come.

    Special tokens have no text. Bytes that can no longer become a character are U+FFFD at once; a character that is
    still incomplete waits, and becomes U+FFFD only when the answer ends. The text does not depend on how tokens are
    grouped into calls, nor on how it is cut into tokens.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop: Sequence[str] = (),
        skip: int = 0,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """`skip`: characters at the beginning that are no part of the text; no stop string begins in them.

        `shown`: special tokens whose text is read.
        """
        self._token_bytes = vocabulary.token_bytes
        self._special = vocabulary.special_ids - shown
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = StopStrings(stop) if stop else None
        self.starts: list[int] = []
        """For each token of the answer, the characters that were whole before it."""
        self._chars = 0
        self._skip = skip
        self.tokens = 0
        """Tokens that belong to the answer: up to and with the one that completed a stop string."""
        self.stopped = False
        """Whether a stop string was found; further tokens are ignored."""
        self.stop_text = ""
        """The one that was found."""

    def push(self, ids: Iterable[int]) -> str:
        """Text that became certain with these tokens; perhaps none."""
        text = ""
        for token in ids:
            if self.stopped:
                break
            self.tokens += 1
            self.starts.append(self._chars)
            if token not in self._special:
                decoded = self._decode(self._token_bytes(token))
                self._chars += len(decoded)
                text += self._accept(self._kept(decoded))
        return text

    def finish(self) -> str:
        """The rest: what was held back because it might have become a character or a stop string."""
        if self.stopped:
            return ""
        text = self._accept(self._kept(self._decode(b"", True)))
        return text if self._stops is None or self.stopped else text + self._stops.release()

    def _kept(self, text: str) -> str:
        if not self._skip:
            return text
        skipped = min(self._skip, len(text))
        self._skip -= skipped
        return text[skipped:]

    def _accept(self, text: str) -> str:
        if self._stops is None or not text:
            return text
        text = self._stops.push(text)
        self.stop_text = self._stops.found
        self.stopped = bool(self.stop_text)
        return text


class StopStrings:
    """Finds the first stop string to end in a text that comes in pieces.

    Each stop string is matched by Knuth-Morris-Pratt, so a character costs the same however long the strings are.
    Where two end at one character, the longer is cut away.

        text  |----- certain -----|-- held: longest suffix that begins a stop string --|
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: non-empty strings."""
        self._stops = [(stop, _borders(stop)) for stop in stops]
        self._matched = [0] * len(stops)
        self._held = ""
        self.found = ""
        """The stop string that ended; empty until then."""

    def push(self, text: str) -> str:
        """What of the held text and `text` is certain to come before any stop string."""
        pending = self._held + text
        for place, character in enumerate(text, start=len(self._held) + 1):
            cut = self._step(character)
            if cut:
                self.found, self._held = pending[place - cut : place], ""
                return pending[: place - cut]
        certain = len(pending) - max(self._matched)
        self._held = pending[certain:]
        return pending[:certain]

    def release(self) -> str:
        """The held text: the answer ended, so it begins no stop string."""
        held, self._held = self._held, ""
        return held

    def _step(self, character: str) -> int:
        """Advance every match by one character; length of the longest stop string that ends here, or 0."""
        cut = 0
        for index, (stop, borders) in enumerate(self._stops):
            length = self._matched[index]
            while length and stop[length] != character:
                length = borders[length - 1]
            length += stop[length] == character
            self._matched[index] = length
            if length == len(stop):
                cut = max(cut, length)
        return cut


def _borders(text: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix (Knuth-Morris-Pratt)."""
    borders = [0] * len(text)
    length = 0
    for place in range(1, len(text)):
        while length and text[place] != text[length]:
            length = borders[length - 1]
        length += text[place] == text[length]
        borders[place] = length
    return borders
