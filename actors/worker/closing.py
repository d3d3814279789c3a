"""The way out of a structure: tokens that complete what was begun, so that it is whole when a row's tokens are spent.

llguidance says what may follow, not what leads to an end soon. The way is sought greedily: of the tokens allowed, one
that closes something; where none does, the longest of what has to be written, and nothing that opens anything while
there is another. That is no shortest way, but a short one, and it ends where the grammar's pieces are bounded.
"""

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

EVERY = 16
"""Tokens between two looks for the way out. A look is due where the tokens left are a multiple of it: a resumed row has
looked where it would have."""
MARGIN = 32
"""Tokens that are kept beside the way out, since until the next look something longer may be begun."""

_CLOSING, _PARTING, _OPENING, _SPACE = b'"]})>', b"@:.-/", b"[{(<", b" \n\t\r"


class Closer:
    """Finds ways out over one vocabulary."""

    def __init__(self, tokens: list[bytes], end: int) -> None:
        """tokens: the bytes of each id. end: an id that ends an answer."""
        self._end = end
        self._vocab = len(tokens)
        self._between = _order([_rank(piece, b"]})>") for piece in tokens])
        self._within = _order([_rank(piece, b'"') for piece in tokens])
        self._letters = np.array([token for token, piece in enumerate(tokens) if piece in (b"x", b"q", b"X")], np.intp)

    def way(self, state: LLMatcher, most: int) -> list[int] | None:
        """Tokens from here to a complete answer, its end included; None where no way of at most `most` was found."""
        state = state.deep_copy()
        found: list[int] = []
        while len(found) < most:
            if state.is_accepting():
                return [*found, self._end]
            bits = np.frombuffer(state.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(bits, bitorder="little")[: self._vocab].astype(bool)
            # Where any letter may stand it is in a text, in which brackets close nothing.
            order = self._within if allowed[self._letters].any() else self._between
            ranked = order[allowed[order]]
            if not len(ranked) or not state.consume_token(int(ranked[0])):
                return None
            found.append(int(ranked[0]))
        return None


def _rank(piece: bytes, first: bytes) -> tuple[int, int, bool]:
    """Lower is sooner: what closes, what parts, what has to be written, white space, what opens; longer ones first.

    Of equals digits come last: a number has no end, the unit after it does.
    """
    if not piece:
        return 9, 0, False
    if all(byte in _CLOSING for byte in piece):
        return (0 if piece[0] in first else 1), -len(piece), False
    if all(byte in _PARTING for byte in piece):
        return 2, -len(piece), False
    if all(byte in _SPACE for byte in piece):
        return 6, len(piece), False
    if any(byte in _OPENING for byte in piece):
        return 7, len(piece), False
    return (3 if piece[0] not in _SPACE else 4), -len(piece), piece.isdigit()


def _order(ranks: list[tuple[int, int, bool]]) -> NDArray[np.intp]:
    """Ids by rank."""
    return np.array(sorted(range(len(ranks)), key=lambda token: (ranks[token], token)), np.intp)
