"""The drafter: proposes for every decoding row, learns from what came, and says when asking is not worth it."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from actors.worker.draft.acceptance import MOST_CHANCE, Acceptance
from actors.worker.draft.draft import Context, Draft
from actors.worker.draft.lookahead import (
    FIRST_LOOKAHEAD,
    MOST_LOOKAHEAD,
    Price,
    adapted,
    chosen,
    paused,
    price,
    worthwhile_depth,
)
from actors.worker.draft.proposer import Proposer
from actors.worker.draft.text import LONGEST, Found, Text
from actors.worker.draft.traffic import Traffic
from actors.worker.draft.tree import RISING, Guess, Tree, grow
from actors.worker.step_cost import StepCost, Work
from kernels.decoder import Int32

log = logging.getLogger(__name__)

SURE_MATCH = 8
"""A match of so many tokens in the row's own text or its reference is not looked up in traffic too."""
SURE_CHANCE = 0.8
"""Where text says what comes next with this chance, nobody is asked who costs something."""
SHADOW, SHADOW_CHANCE = 4, 0.3
"""Tokens between two places of a stretch without drafts at which a draft is judged; how likely its tokens are then."""
FIRST_RATE = 0.7
RATE_OF_RATE = 0.25
"""Weight of the newest draft in a row's acceptance rate, and the rate before there was any."""
RETRY = 128
"""Tokens after which a row tries again a proposer that is not worth its cost: nothing else tells whether it is."""
RETRY_DEPTH = 2

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
        self.rate = FIRST_RATE
        """Accepted part of the tokens tried, of late."""
        self.rates: dict[str, float] = {}
        """The same by source."""
        self.asked: dict[str, int] = {}
        """Tokens known when a proposer was last asked."""
        self.known = 0
        """Tokens when it was last looked at."""
        self.tree: Tree | None = None
        """What was proposed then, whether or not it was verified."""


class Drafter:
    """Proposes drafts for the rows of an engine, whose thread owns it.

    It learns by itself: whenever a row is seen again, the tokens that came are held against what was proposed before,
    verified or not. So nothing is told to it but that rows enter and leave.
    """

    def __init__(self, trees: bool = True, proposers: Sequence[Proposer] = ()) -> None:
        """`trees` is whether what verifies can take anything but chains. `proposers` are asked besides text."""
        self._trees = trees
        self._proposers = list(proposers)
        self._rows: dict[int, _Row] = {}
        self._traffic = Traffic()
        self._acceptance = Acceptance()
        self._fruitless = 0
        """Looks in a row that found nothing."""
        self.pause = 0
        """After `draft` proposed nothing: steps that the engine may run before it asks again, 0 to MOST_PAUSE."""

    def start(self, slot: int, prompt_tokens: int, pool: bytes = b"", reference: Int32 = NO_TOKENS) -> None:
        """A row enters. `pool` names whose traffic it learns from and joins: a tenant's salt; b"" is the common one.

        `reference` [P] is what the client expects as output (OpenAI's `prediction`); may be empty.
        """
        row = self._rows[slot] = _Row(prompt_tokens, pool, reference)
        row.reference_text.sync(reference)
        self._fruitless = self.pause = 0

    def drop(self, slot: int, tokens: Int32) -> None:
        """A row left, whose tokens were these; its output joins its pool. A slot without a row is no error."""
        row = self._rows.pop(slot, None)
        if row is not None:
            self._traffic.add(row.pool, tokens[row.prompt_tokens :])
        for proposer in self._proposers:
            proposer.drop(slot)

    def draft(self, contexts: Sequence[Context], cost: StepCost | None, beside: Work) -> list[Draft | None]:
        """What the step verifies, for each of `contexts` (decoding rows); `beside` is its work without drafts.

        Nothing while no step was measured. Never more than a context's `most`, nor than lookahead.MOST_NODES together.
        """
        if cost is None or beside.rows == 0:
            return [None] * len(contexts)
        of_step = price(cost, beside)
        least = of_step.least_chance
        guesses = [self._read(context, least) for context in contexts]
        for proposer in self._proposers if least <= MOST_CHANCE else ():
            self._ask(proposer, contexts, guesses, of_step)
        trees = [self._grown(context, of_row, least) for context, of_row in zip(contexts, guesses, strict=True)]
        counts = chosen([tree.chances for tree in trees], of_step, beside.rows)
        self._fruitless = 0 if any(counts) else self._fruitless + 1
        self.pause = paused(self._fruitless, beside.rows) if self._fruitless else 0
        return [tree.draft(count) if count else None for tree, count in zip(trees, counts, strict=True)]

    def _read(self, context: Context, least: float) -> list[Guess]:
        """Learn from what came, and say what text says comes next."""
        row, tokens = self._rows[context.slot], context.tokens
        self._catch_up(row, tokens)
        row.tree = None
        depth = min(row.lookahead, context.most - len(context.forced))
        return self._guesses(row, tokens, context.forced, depth, least) if least <= MOST_CHANCE and depth > 0 else []

    def _ask(
        self, proposer: Proposer, contexts: Sequence[Context], guesses: Sequence[list[Guess]], of_step: Price
    ) -> None:
        """Add what a proposer says of rows whose text says little, if that is worth its time."""
        at = [
            index
            for index, (context, of_row) in enumerate(zip(contexts, guesses, strict=True))
            if context.most > 0 and not context.forced and self._best(context.slot, of_row) < SURE_CHANCE
        ]
        asked = [contexts[index] for index in at]
        source = proposer.source
        rates = [self._rows[context.slot].rates.get(source, FIRST_RATE) for context in asked]
        depth = worthwhile_depth(rates, of_step, lambda depth: proposer.expected_ms(asked, depth)) if asked else 0
        if depth == 0:
            at = [index for index in at if self._due(source, contexts[index])]
            asked = [contexts[index] for index in at]
            depth = RETRY_DEPTH
        if not asked:
            return
        try:
            proposed = proposer.propose(asked, depth)
        except Exception:
            # Drafts are only a matter of speed.
            log.exception("drafting by %s failed; going on without it", source)
            self._proposers.remove(proposer)
            return
        for index, guess in zip(at, proposed, strict=True):
            row = self._rows[contexts[index].slot]
            row.asked[source] = row.known
            if guess is not None:
                guesses[index].append(guess._replace(tokens=guess.tokens[: contexts[index].most]))
                self._sort(guesses[index], row)

    def _due(self, source: str, context: Context) -> bool:
        row = self._rows[context.slot]
        return row.known - row.asked.get(source, row.prompt_tokens) >= RETRY

    def _best(self, slot: int, guesses: Sequence[Guess]) -> float:
        """The chance that the row's next token is what its first guess says."""
        return self._chance(guesses[0], self._rows[slot]) if guesses else 0.0

    def _chance(self, guess: Guess, row: _Row) -> float:
        return self._acceptance.chance(guess.source, guess.levels[0], row.shifts)

    def _sort(self, guesses: list[Guess], row: _Row) -> None:
        """The likeliest first."""
        guesses.sort(key=lambda guess: -self._chance(guess, row))

    def _grown(self, context: Context, guesses: list[Guess], least: float) -> Tree:
        row, most = self._rows[context.slot], max(context.most, 0)
        tree = self._tree(row, context.forced[:most], guesses, least)
        if len(tree) > most:
            tree.cut(most)
        row.tree = tree if len(tree) else None
        return tree

    def _tree(self, row: _Row, forced: Sequence[int], guesses: Sequence[Guess], least: float) -> Tree:
        return grow(forced, guesses if self._trees else guesses[:1], least, self._acceptance, row.shifts)

    def _catch_up(self, row: _Row, tokens: Int32) -> None:
        """Judge what was proposed, and what would have been since, by the tokens that came."""
        if row.known:
            if row.tree is not None:
                self._judge(row, row.tree, tokens, row.known)
            for known in range(row.known + SHADOW, len(tokens) - 1, SHADOW):
                row.text.sync(tokens[:known])
                guesses = self._guesses(row, tokens[:known], (), row.lookahead, 1.0)
                self._judge(row, self._tree(row, (), guesses, SHADOW_CHANCE), tokens, known)
        row.text.sync(tokens)
        row.known = len(tokens)

    def _judge(self, row: _Row, tree: Tree, tokens: Int32, known: int) -> None:
        came = tokens[known : known + MOST_LOOKAHEAD + 1].tolist()
        tried = tree.judge(came, self._acceptance, row.shifts)
        if self._proposers:
            for source, right in tried:
                rate = row.rates.get(source, FIRST_RATE)
                row.rates[source] = rate + RATE_OF_RATE * (right - rate)
        if tried:
            share = sum(right for _, right in tried) / len(tried)
            row.rate += RATE_OF_RATE * (share - row.rate)
            row.lookahead = adapted(row.lookahead, row.rate)

    def _guesses(self, row: _Row, tokens: Int32, forced: Sequence[int], depth: int, least: float) -> list[Guess]:
        """What the texts say after `tokens` and `forced`, the likeliest first."""
        tail = [*tokens[-LONGEST:].tolist(), *forced]
        guesses: list[Guess] = []
        left = 1.0
        """What no guess so far stands for."""
        for source, place, following in self._places(row, tokens, tail, depth):
            if following:
                guesses.append(Guess(source, following, RISING[place.matched]))
                left -= left * self._acceptance.chance(source, place.matched, row.shifts)
                if (not self._trees and place.matched >= SURE_MATCH) or left < least:
                    break
        if len(guesses) > 1:
            self._sort(guesses, row)
        return guesses

    def _places(self, row: _Row, tokens: Int32, tail: list[int], depth: int) -> Iterator[tuple[str, Found, list[int]]]:
        """Where `tail` occurred, and what followed there: the surest sources first."""
        if len(row.reference):
            if len(tokens) == row.prompt_tokens:
                yield "reference", Found(0, 0), row.reference[:depth].tolist()
            for place in row.reference_text.find(row.reference, tail):
                yield "reference", place, row.reference[place.at : place.at + depth].tolist()
        for place in row.text.find(tokens, tail):
            yield "prompt", place, _continued(tokens, place.at, depth)
        if (pool := self._traffic.pool(row.pool)) is not None:
            for place in pool.find(tail):
                yield "traffic", place, pool.read(place.at, depth)


def _continued(tokens: Int32, at: int, count: int) -> list[int]:
    """What follows from `at`; past the end of the text it goes on as it did between there and the end."""
    following = tokens[at : at + count].tolist()
    period = len(following)
    while len(following) < count:
        following.append(following[-period])
    return following
