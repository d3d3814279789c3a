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

from actors.worker.draft.draft import Draft
from kernels.decoder import Int32

MOST_DRAFTED = 64
"""Drafted tokens of one step, over all rows."""


class Draws(NamedTuple):
    """The places of a step where tokens are drawn, D of them, in the order of its tokens."""

    at: Int32  # [D], index into Batch.tokens of the token that it follows
    row: Int32  # [D], index into the step's rows; several draws of a row follow each other
    ahead: Int32  # [D], drafted tokens between the row's newest and the token drawn: it stands at known + ahead


class RowDraft(NamedTuple):
    """The draft of one row, as lists: what is done with them between two steps is little for each, and NumPy's calls
    are not."""

    tokens: list[int]
    parents: list[int]  # index among the tokens; -1: the row's newest one
    depths: list[int]  # tokens from the newest one; a child of that has 1
    forced: int  # leading tokens that are certain: a chain from the newest one, not drawn

    @property
    def is_chain(self) -> bool:
        """Whether each token follows the one before it."""
        return self.depths[-1] == len(self.tokens)

    def path(self, node: int) -> list[int]:
        """The tokens from the one after the row's newest to `node`."""
        way: list[int] = []
        while node >= 0:
            way.append(self.tokens[node])
            node = self.parents[node]
        return way[::-1]


class Guess(NamedTuple):
    """What a grammar has to know of a row's draft, which is a chain."""

    forced: list[int]
    tokens: list[int]


NO_GUESS = Guess([], [])


class Drafted:
    """The drafts of a step of R rows."""

    def __init__(self, drafts: Sequence[Draft | None], forced: Sequence[int]) -> None:
        """For each row its draft, or None, and how many leading tokens of it are forced."""
        self.rows: dict[int, RowDraft] = {}
        """By index into the step's rows; those that are drafted for."""
        counts = [0] * len(drafts)
        for row, draft in enumerate(drafts):
            if draft is not None:
                tokens, parents = draft.tokens.tolist(), draft.parents.tolist()
                self.rows[row] = RowDraft(tokens, parents, _depths(parents), forced[row])
                counts[row] = len(tokens)
        self.counts = np.array(counts, np.int32)
        """[R], tokens of each row."""

    @classmethod
    def of(cls, drafts: Sequence[Draft | None], forced: Sequence[int]) -> Self | None:
        """The drafts of a step's rows; None where there are none."""
        return cls(drafts, forced) if any(draft is not None for draft in drafts) else None

    def lineage(self, row_starts: Int32) -> Int32 | None:
        """Batch.parents of a batch whose rows end with these tokens; None where every token follows the one before."""
        if all(draft.is_chain for draft in self.rows.values()):
            return None
        lengths = np.diff(row_starts)
        parents = (np.arange(-1, int(lengths.sum()) - 1) - np.repeat(row_starts[:-1], lengths)).astype(np.int32)
        for row, draft in self.rows.items():
            end, count = int(row_starts[row + 1]), len(draft.tokens)
            before = int(lengths[row]) - count
            parents[end - count : end] = [parent + before for parent in draft.parents]
        return parents

    def guess(self, row: int) -> Guess:
        """What a grammar has to know of a row's draft."""
        draft = self.rows.get(row)
        return NO_GUESS if draft is None else Guess(draft.tokens[: draft.forced], draft.tokens[draft.forced :])


class Verified(NamedTuple):
    """What became of a step's draws."""

    tokens: Int32  # [R, W], the new tokens of each row, from the left; -1 elsewhere
    counts: Int32  # [R], by how many tokens each row's KV has grown
    stood: Int32  # indices of the draws whose tokens are among `tokens`, in order
    accepted: Int32  # [R], drafted tokens that stood, forced ones included
    moves: list[tuple[int, list[int]]]
    """Of rows whose path is not the beginning of their draft: the row, and the nodes of the path in order."""


def draws_of(row_starts: Int32, ends: Int32, drafted: Drafted | None) -> Draws:
    """Where a step draws whose rows `ends` [E] come to the end of what they know."""
    if drafted is None:
        return Draws(row_starts[1:][ends] - 1, ends, np.zeros(len(ends), np.int32))
    at: list[int] = []
    rows: list[int] = []
    ahead: list[int] = []
    for row, end in zip(ends.tolist(), row_starts[1:][ends].tolist(), strict=True):
        draft = drafted.rows.get(row)
        if draft is None:
            at.append(end - 1)
            rows.append(row)
            ahead.append(0)
            continue
        count, forced = len(draft.tokens), draft.forced
        at += range(end - count + forced - 1, end)
        rows += [row] * (count - forced + 1)
        ahead.append(forced)
        ahead += draft.depths[forced:]
    return Draws(np.array(at, np.int32), np.array(rows, np.int32), np.array(ahead, np.int32))


def verified(draws: Draws, counts: Int32, drafted: Drafted | None, drawn: Int32, stop_ids: Int32) -> Verified:
    """Take what stands of `drawn` [D]: of a step over `counts` [R] tokens beside its drafts.

    stop_ids: [R, S], -1 where there are fewer. Nothing stands after one.
    """
    rows = len(counts)
    accepted = np.zeros(rows, np.int32)
    if drafted is None:
        tokens = np.full((rows, 1), -1, np.int32)
        tokens[draws.row, 0] = drawn
        return Verified(tokens, counts, np.arange(len(drawn), dtype=np.int32), accepted, [])
    grown = counts.copy()
    drawn_tokens, draw_rows = drawn.tolist(), draws.row.tolist()
    said: dict[int, list[int]] = {}
    stood: list[int] = []
    moves: list[tuple[int, list[int]]] = []
    first = 0
    while first < len(draw_rows):
        row = draw_rows[first]
        draft = drafted.rows.get(row)
        if draft is None:
            said[row] = [drawn_tokens[first]]
            stood.append(first)
            first += 1
            continue
        end = first + len(draft.tokens) - draft.forced + 1
        walk = walked(draft, drawn_tokens[first:end], stop_ids[row].tolist())
        said[row] = walk.tokens
        stood += [first + draw for draw in walk.draws]
        grown[row] += len(walk.path)
        accepted[row] = len(walk.path)
        if walk.path and walk.path[-1] != len(walk.path) - 1:
            moves.append((row, walk.path))
        first = end
    tokens = np.full((rows, max(map(len, said.values()), default=1)), -1, np.int32)
    for row, new in said.items():
        tokens[row, : len(new)] = new
    return Verified(tokens, grown, np.array(stood, np.int32), accepted, moves)


class Walk(NamedTuple):
    """How far a row's draft is what was drawn."""

    tokens: list[int]  # what the row says
    path: list[int]  # nodes that stand and whose KV is wanted, in order
    draws: list[int]  # draws of the row that stand


def walked(draft: RowDraft, drawn: Sequence[int], stop_ids: Sequence[int]) -> Walk:
    """Follow a draft: `drawn` are the tokens after its last forced one (or the newest) and after each that follows."""
    forced = draft.forced
    children = {
        (parent, token): node for node, (parent, token) in enumerate(zip(draft.parents, draft.tokens, strict=True))
    }
    tokens, path, draws = draft.tokens[:forced], list(range(forced)), []
    node = forced - 1
    while True:
        draw = node + 1 - forced
        token = drawn[draw]
        tokens.append(token)
        draws.append(draw)
        following = children.get((node, token), -1)
        if following < 0 or token in stop_ids:
            return Walk(tokens, path, draws)
        path.append(following)
        node = following


def _depths(parents: Sequence[int]) -> list[int]:
    depths: list[int] = []
    for parent in parents:
        depths.append(1 if parent < 0 else depths[parent] + 1)
    return depths
