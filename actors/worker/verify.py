"""Drafts in a step: tokens that were guessed run through the same forward as the newest token of their row, the target
draws after each of them as it would anyway, and a guess stands exactly where it is what was drawn.

    newest   d0        d1        d2             in the batch, one after the other
      |       |         |         |
    draws d0  draws d1  draws x   draws y       d0 and d1 stand, x is the token after them; d2 and y mean nothing

So a row says what it would have said one token a step, whatever was guessed: each draw is made with its own (seed,
position), from logits, penalties, bias and mask of what stands before it. Forced tokens, which a grammar leaves no
choice about, lead a draft and are not drawn at all.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from actors.worker.draft.draft import Draft
from kernels.decoder import Int32

MOST_DRAFTED = 64
"""Drafted tokens of one step, over all rows."""


class Draws(NamedTuple):
    """The places of a step where tokens are drawn, D of them, in the order of its tokens."""

    at: Int32  # [D], index into Batch.tokens of the token that it follows
    row: Int32  # [D], index into the step's rows; several draws of a row follow each other
    ahead: Int32  # [D], drafted tokens between the row's newest and the token drawn: it stands at known + ahead


class Guess(NamedTuple):
    """A row's draft where it is a chain."""

    forced: list[int]
    tokens: list[int]


NO_GUESS = Guess([], [])


class Drafted(NamedTuple):
    """The drafts of a step of R rows, N tokens in all."""

    counts: Int32  # [R], tokens of each row; 0: it is not drafted for
    tokens: Int32  # [N], a row's one after the other
    parents: Int32  # [N], index among the row's; -1: the row's newest token
    depths: Int32  # [N], tokens from the newest one; a child of that has 1
    forced: Int32  # [R], leading tokens that are certain: a chain from the newest one, not drawn

    @classmethod
    def of(cls, drafts: Sequence[Draft | None], forced: Sequence[int]) -> Self | None:
        """The drafts of a step's rows, of each so many leading tokens `forced`; None where there are none."""
        if not any(draft is not None and len(draft.tokens) for draft in drafts):
            return None
        there = [draft for draft in drafts if draft is not None]
        counts = np.array([0 if draft is None else len(draft.tokens) for draft in drafts], np.int32)
        parents = np.concatenate([draft.parents for draft in there]).astype(np.int32)
        depths = np.concatenate([_depths(draft.parents) for draft in there])
        tokens = np.concatenate([draft.tokens for draft in there]).astype(np.int32)
        return cls(counts, tokens, parents, depths, np.array(forced, np.int32))

    @property
    def starts(self) -> Int32:
        """[R + 1], where the tokens of each row begin."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int32)

    def at(self, row_starts: Int32) -> NDArray[np.intp]:
        """[N], where the tokens are in a batch whose rows end with theirs."""
        ends = np.repeat(row_starts[1:] - self.starts[1:], self.counts)
        return ends + np.arange(len(self.tokens))

    def lineage(self, row_starts: Int32) -> Int32 | None:
        """Batch.parents of a batch whose rows end with these tokens; None where every token follows the one before."""
        if (self.parents == np.concatenate([np.arange(-1, count - 1) for count in self.counts])).all():
            return None
        lengths = np.diff(row_starts)
        parents = np.arange(-1, int(lengths.sum()) - 1) - np.repeat(row_starts[:-1], lengths)
        parents[self.at(row_starts)] = self.parents + np.repeat(lengths - self.counts, self.counts)
        return parents.astype(np.int32)

    def of_row(self, row: int) -> slice:
        """The row's tokens."""
        starts = self.starts
        return slice(int(starts[row]), int(starts[row + 1]))

    def guess(self, row: int) -> "Guess":
        """What a grammar has to know of the row's draft: a chain."""
        tokens, forced = self.tokens[self.of_row(row)].tolist(), int(self.forced[row])
        return Guess(tokens[:forced], tokens[forced:])

    def path(self, row: int, node: int) -> Int32:
        """The row's tokens from the one after its newest to `node` (an index among them)."""
        span = self.of_row(row)
        tokens, parents = self.tokens[span], self.parents[span]
        way = []
        while node >= 0:
            way.append(int(tokens[node]))
            node = int(parents[node])
        return np.array(way[::-1], np.int32)


class Verified(NamedTuple):
    """What became of a step's draws."""

    tokens: Int32  # [R, W], the new tokens of each row, from the left; -1 elsewhere
    counts: Int32  # [R], by how many tokens each row's KV has grown
    stood: NDArray[np.intp]  # indices of the draws whose tokens are among `tokens`, in order
    accepted: Int32  # [R], drafted tokens that stood, forced ones included
    moves: list[tuple[int, Int32]]
    """Of rows whose path is not the beginning of their draft: the row, and the nodes of the path in order."""


def draws_of(row_starts: Int32, ends: Int32, drafted: Drafted | None) -> Draws:
    """Where a step draws whose rows `ends` [E] come to the end of what they know."""
    if drafted is None:
        return Draws(row_starts[1:][ends] - 1, ends, np.zeros(len(ends), np.int32))
    draws = np.where(np.isin(np.arange(len(drafted.counts)), ends), drafted.counts - drafted.forced + 1, 0)
    row = np.repeat(np.arange(len(draws), dtype=np.int32), draws)
    firsts = row_starts[1:] - draws
    nth = np.arange(len(row), dtype=np.int32) - np.repeat(np.cumsum(draws) - draws, draws).astype(np.int32)
    at = (firsts[row] + nth).astype(np.int32)
    # The newest token has depth 0, its descendants are in the order of the batch.
    node = at - (row_starts[1:] - drafted.counts)[row]
    depths = np.append(drafted.depths, 0)
    ahead = np.where(node < 0, 0, depths[np.where(node < 0, -1, drafted.starts[:-1][row] + node)])
    return Draws(at, row, ahead.astype(np.int32))


def verified(draws: Draws, counts: Int32, drafted: Drafted | None, drawn: Int32, stop_ids: Int32) -> Verified:
    """Take what stands of `drawn` [D]: of a step over `counts` [R] tokens beside its drafts.

    stop_ids: [R, S], -1 where there are fewer. Nothing stands after one.
    """
    rows = len(counts)
    accepted = np.zeros(rows, np.int32)
    if drafted is None:
        tokens = np.full((rows, 1), -1, np.int32)
        tokens[draws.row, 0] = drawn
        return Verified(tokens, counts, np.arange(len(drawn)), accepted, [])
    grown = counts.copy()
    said: list[list[int]] = [[] for _ in range(rows)]
    stood: list[int] = []
    moves: list[tuple[int, Int32]] = []
    firsts = np.searchsorted(draws.row, np.arange(rows + 1))
    for row in range(rows):
        first, end = int(firsts[row]), int(firsts[row + 1])
        if first == end:
            continue
        if not drafted.counts[row]:
            said[row].append(int(drawn[first]))
            stood.append(first)
            continue
        walk = _walk(drafted, row, drawn[first:end], stop_ids[row])
        said[row] = walk.tokens
        stood += [first + draw for draw in walk.draws]
        grown[row] = counts[row] - 1 + len(walk.tokens)
        accepted[row] = len(walk.path)
        if walk.path != list(range(len(walk.path))):
            moves.append((row, np.array(walk.path, np.int32)))
    tokens = np.full((rows, max(1, max(map(len, said)))), -1, np.int32)
    for row, new in enumerate(said):
        tokens[row, : len(new)] = new
    return Verified(tokens, grown, np.array(stood, np.intp), accepted, moves)


class _Walk(NamedTuple):
    tokens: list[int]  # what the row says
    path: list[int]  # nodes that stand and whose KV is wanted, in order
    draws: list[int]  # draws of the row that stand


def _walk(drafted: Drafted, row: int, drawn: Int32, stop_ids: Int32) -> _Walk:
    """Follow a row's draft as far as it is what was drawn."""
    span, forced = drafted.of_row(row), int(drafted.forced[row])
    guesses, parents = drafted.tokens[span].tolist(), drafted.parents[span].tolist()
    children = {(parent, token): node for node, (parent, token) in enumerate(zip(parents, guesses, strict=True))}
    stops = set(stop_ids.tolist())
    tokens, path, draws = guesses[:forced], list(range(forced)), []
    node = forced - 1
    while True:
        draw = node + 1 - forced
        token = int(drawn[draw])
        tokens.append(token)
        draws.append(draw)
        following = children.get((node, token), -1) if token not in stops else -1
        if following < 0:
            return _Walk(tokens, path, draws)
        path.append(following)
        node = following


def _depths(parents: Int32) -> Int32:
    depths: list[int] = []
    for parent in parents.tolist():
        depths.append(1 if parent < 0 else depths[parent] + 1)
    return np.array(depths, np.int32)
