"""The drafter: proposes for every decoding row, learns from what came, and says when asking is not worth it."""

from collections.abc import Sequence

import numpy as np

from actors.worker.draft.acceptance import MOST_CHANCE, Acceptance
from actors.worker.draft.draft import Context, Draft
from actors.worker.draft.lookahead import FIRST_LOOKAHEAD, MOST_LOOKAHEAD, Price, adapted, chosen, price
from actors.worker.draft.text import LONGEST, Found, Text
from actors.worker.draft.traffic import Traffic
from actors.worker.draft.tree import Guess, Tree, grow, rising
from actors.worker.step_cost import StepCost, Work
from kernels.decoder import Int32

SURE = 8
"""A match of so many tokens in the row's own text or its reference is not looked up in traffic too."""
SHADOW = 4
"""Tokens between two places of a stretch without drafts at which a draft is judged."""
RATE_OF_RATE = 0.25
"""Weight of the newest draft in a row's acceptance rate."""
MOST_PAUSE = 16
"""Most steps without looking for drafts."""

NO_TOKENS = np.zeros(0, np.int32)


class _Row:
    """What the drafter keeps of a row."""

    def __init__(self, prompt_tokens: int, pool: bytes, reference: Int32) -> None:
        self.prompt_tokens = prompt_tokens
        self.pool = pool
        self.text = Text()
        self.reference = reference
        self.reference_text = Text()
        self.shifts: dict[str, float] = {}
        self.lookahead = FIRST_LOOKAHEAD
        self.rate = 0.7
        """Accepted part of the tokens tried, of late."""
        self.known = 0
        """Tokens when it was last looked at."""
        self.tree: Tree | None = None
        """What was proposed then, whether or not it was verified."""


class Drafter:
    """Proposes drafts for the rows of an engine, whose thread owns it.

    It learns by itself: whenever a row is seen again, the tokens that came are held against what was proposed before,
    verified or not. So nothing is told to it but that rows enter and leave.
    """

    def __init__(self, trees: bool = True) -> None:
        """`trees` is whether what verifies can take anything but chains."""
        self._trees = trees
        self._rows: dict[int, _Row] = {}
        self._traffic = Traffic()
        self._acceptance = Acceptance()
        self.pause = 0
        """After `draft` proposed nothing: steps that the engine may run before it asks again, 0 to MOST_PAUSE."""

    def start(self, slot: int, prompt_tokens: int, pool: bytes = b"", reference: Int32 = NO_TOKENS) -> None:
        """A row enters. `pool` names whose traffic it learns from and joins: a tenant's salt; b"" is the common one.

        `reference` [P] is what the client expects as output (OpenAI's `prediction`); may be empty.
        """
        row = self._rows[slot] = _Row(prompt_tokens, pool, reference)
        row.reference_text.sync(reference)
        self.pause = 0

    def drop(self, slot: int, tokens: Int32) -> None:
        """A row left, whose tokens were these; its output joins its pool. Rows that never started are none."""
        row = self._rows.pop(slot, None)
        if row is not None:
            self._traffic.add(row.pool, tokens[row.prompt_tokens :])

    def draft(self, contexts: Sequence[Context], cost: StepCost | None, beside: Work) -> list[Draft | None]:
        """What the step verifies, for each of `contexts` (decoding rows); `beside` is its work without drafts.

        Nothing while no step was measured. Never more than a context's `most`, nor than lookahead.MOST_NODES together.
        """
        if cost is None or beside.rows == 0:
            return [None] * len(contexts)
        of_step = price(cost, beside)
        trees = [self._tree(context, of_step) for context in contexts]
        counts = chosen([tree.chances if tree is not None else () for tree in trees], of_step, beside.rows)
        drafts = [
            tree.draft(count) if tree is not None and count else None for tree, count in zip(trees, counts, strict=True)
        ]
        self.pause = 0 if any(counts) else min(max(2 * self.pause, 1), MOST_PAUSE)
        return drafts

    def _tree(self, context: Context, of_step: Price) -> Tree | None:
        """The row's proposal, of `most` nodes at most; None where there is none."""
        row, tokens = self._rows[context.slot], context.tokens
        self._catch_up(row, tokens)
        row.tree = None
        if context.most <= 0 or of_step.least_chance > MOST_CHANCE:
            return None
        forced = list(context.forced[: context.most])
        tree = self._proposed(row, tokens, forced, min(row.lookahead, context.most - len(forced)))
        if not len(tree):
            return None
        row.tree = tree
        tree.cut(context.most)
        return tree

    def _catch_up(self, row: _Row, tokens: Int32) -> None:
        """Judge what was proposed, and what would have been since, by the tokens that came."""
        if row.known:
            if row.tree is not None:
                self._judge(row, row.tree, tokens, row.known)
            for known in range(row.known + SHADOW, len(tokens) - 1, SHADOW):
                row.text.sync(tokens[:known])
                self._judge(row, self._proposed(row, tokens[:known], [], row.lookahead), tokens, known)
        row.text.sync(tokens)
        row.known = len(tokens)

    def _judge(self, row: _Row, tree: Tree, tokens: Int32, known: int) -> None:
        came = tokens[known : known + MOST_LOOKAHEAD + 1].tolist()
        taken, tried = tree.judge(came, self._acceptance, row.shifts)
        if tried:
            row.rate += RATE_OF_RATE * (taken / tried - row.rate)
            row.lookahead = adapted(row.lookahead, row.rate)

    def _proposed(self, row: _Row, tokens: Int32, forced: list[int], depth: int) -> Tree:
        """The tree of what all sources say after `tokens` and `forced`."""
        guesses = self._guesses(row, tokens, [*tokens[-LONGEST:].tolist(), *forced], depth) if depth > 0 else ()
        return grow(forced, guesses, depth, self._acceptance, row.shifts)

    def _guesses(self, row: _Row, tokens: Int32, tail: list[int], depth: int) -> list[Guess]:
        """What the texts say, the likeliest first; one alone where trees are not wanted."""
        found: list[tuple[float, Guess]] = []

        def add(source: str, place: Found, following: list[int]) -> None:
            chance = self._acceptance.chance(source, place.matched, row.shifts)
            found.append((-chance, Guess(source, following, rising(place.matched, len(following)))))

        best = 0
        for place in row.text.find(tokens, tail):
            add("prompt", place, _continued(tokens, place.at, depth))
            best = max(best, place.matched)
        if len(row.reference):
            if len(tokens) == row.prompt_tokens:
                add("reference", Found(0, 0), row.reference[:depth].tolist())
            for place in row.reference_text.find(row.reference, tail):
                add("reference", place, row.reference[place.at : place.at + depth].tolist())
                best = max(best, place.matched)
        if best < SURE and (pool := self._traffic.pool(row.pool)) is not None:
            for place in pool.find(tail):
                add("traffic", place, pool.read(place.at, depth))
        found.sort(key=lambda each: each[0])
        return [guess for _, guess in found[: None if self._trees else 1]]


def _continued(tokens: Int32, at: int, count: int) -> list[int]:
    """What follows from `at`; past the end of the text it goes on as it did between there and the end."""
    following = tokens[at : at + count].tolist()
    period = len(following)
    while len(following) < count:
        following.append(following[-period])
    return following
