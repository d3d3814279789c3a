"""What a step verifies beside what it has to compute: forced tokens of grammars, and what the drafter guesses.

Rows that decode may have a draft, whatever else they ask for. No draft is longer than its row's lease and length allow,
and all of a step together are no more than it has room for.
"""

import numpy as np

from actors.worker.draft.draft import Context, Draft
from actors.worker.draft.drafter import Drafter
from actors.worker.draft.gain import Gains
from actors.worker.grammar import Grammars
from actors.worker.rows import Rows
from actors.worker.step_cost import StepCost, Work, attended
from actors.worker.verify import MOST_DRAFTED, Drafted
from kernels.decoder import Int32
from protos.gen import worker_pb2


class Speculation:
    """The drafts of an engine's rows; its thread owns it."""

    def __init__(self, rows: Rows, grammars: Grammars, drafter: Drafter | None) -> None:
        """Without a drafter forced tokens are all that is verified."""
        self._rows = rows
        self._grammars = grammars
        self._drafter = drafter
        self._gains = Gains()
        self.pause: int | None = None if drafter is None else 0
        """For how many steps nothing is to be verified, as far as can be told; None: until rows come or change."""

    def start(self, slot: int, start: worker_pb2.RowStart) -> None:
        """A row entered."""
        if self._drafter is not None:
            reference = np.array(start.prediction, np.int32)
            self._drafter.start(slot, start.prompt_tokens, start.draft_pool, reference)

    def drop(self, slot: int) -> None:
        """A row leaves; Rows still has it."""
        if self._drafter is not None:
            self._drafter.drop(slot, self._rows.tokens[slot, : self._rows.known[slot]])

    def took(self, rows: int, tokens: int, ms: float, drafted: Drafted | None, steps: int = 1) -> None:
        """As Gains.took; of each of `steps` steps."""
        if self._drafter is not None:
            guessed = drafted is not None and any(len(row.tokens) > row.forced for row in drafted.rows.values())
            if guessed or drafted is None:
                self._gains.took(rows, tokens, ms, guessed, steps)

    def drafted(self, slots: Int32, counts: Int32, step_tokens: int, cost: StepCost | None) -> Drafted | None:
        """The drafts of a step that computes `counts` [R] tokens of `slots`, and at most step_tokens in all."""
        rows = self._rows
        room = min(step_tokens - int(counts.sum()), MOST_DRAFTED)
        decoding = (rows.known[slots] - rows.computed[slots] == 1) & ~rows.waiting[slots]
        at = np.flatnonzero(decoding).astype(np.int32)
        if room <= 0 or not len(at):
            return None
        contexts = [self._context(slot, room) for slot in slots[at].tolist()]
        drafts = self._chosen(contexts, slots, counts, at, cost)
        whole: list[Draft | None] = [None] * len(slots)
        forced = [0] * len(slots)
        for index, context, draft in zip(at.tolist(), contexts, drafts, strict=True):
            certain = self._certain(context)
            draft = _led(draft, certain)
            if draft is None or room <= 0:
                continue
            if rows.constrained[context.slot]:
                draft = _trunk(draft)
            whole[index] = draft = _cut(draft, room)
            forced[index] = min(len(certain), len(draft.tokens))
            room -= len(draft.tokens)
        return Drafted.of(whole, forced)

    def _context(self, slot: int, room: int) -> Context:
        rows, known = self._rows, int(self._rows.known[slot])
        most = min(room, int(min(rows.limit[slot], rows.max_length[slot] - 1)) - known)
        forced: list[int] = []
        if rows.constrained[slot]:
            forced = self._grammars.forced(slot, known)
            within = self._grammars.room(slot, known)
            most = most if within is None else min(most, within)
        most = max(most, 0)
        return Context(slot, rows.tokens[slot, :known], most, forced[:most])

    def _certain(self, context: Context) -> list[int]:
        """Leading tokens that need not be drawn: those of a row that is told log-probabilities have to be."""
        return list(context.forced) if self._rows.top_logprobs[context.slot] < 0 else []

    def _chosen(
        self, contexts: list[Context], slots: Int32, counts: Int32, at: Int32, cost: StepCost | None
    ) -> list[Draft | None]:
        rest = self._gains.rest(len(at))
        if self._drafter is None or rest:
            self.pause = None if self._drafter is None else rest
            return [_led(None, list(context.forced)) for context in contexts]
        lengths = self._rows.computed[slots]
        reads = sum(attended(count, length) for count, length in zip(counts.tolist(), lengths.tolist(), strict=True))
        beside = Work(int(counts.sum()) - len(at), len(at), reads)
        drafts = self._drafter.draft(contexts, cost, beside)
        self.pause = self._drafter.pause
        return drafts


def _led(draft: Draft | None, forced: list[int]) -> Draft | None:
    """The draft, which begins with the `forced` tokens at least."""
    if not forced or (draft is not None and draft.tokens[: len(forced)].tolist() == forced):
        return draft
    parents = np.arange(-1, len(forced) - 1, dtype=np.int32)
    return Draft(np.array(forced, np.int32), parents, [1.0] * len(forced), "grammar")


def _cut(draft: Draft, room: int) -> Draft:
    if len(draft.tokens) <= room:
        return draft
    return Draft(draft.tokens[:room], draft.parents[:room], draft.chances[:room], draft.source)


def _trunk(draft: Draft) -> Draft:
    """Its likeliest chain: a grammar's masks follow one text."""
    if draft.is_chain:
        return draft
    chain: list[int] = []
    for node, parent in enumerate(draft.parents.tolist()):
        if parent == (chain[-1] if chain else -1):
            chain.append(node)
    chances = [draft.chances[node] for node in chain]
    return Draft(draft.tokens[chain], np.arange(-1, len(chain) - 1, dtype=np.int32), chances, draft.source)
