"""A smaller model that drafts greedily: its own decoder and KV, a few steps for all rows together.

Of each row it keeps its own KV in pages taken as they are needed. What it wrote for drafts that were rejected is
forgotten by writing over it: the row's KV counts as far as it agrees with the tokens that came. A row it has not seen
is caught up with in chunks, so that a long prompt does not hold up a step.
(Leviathan et al. 2023, "Fast inference from transformers via speculative decoding".)
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import digest_of
from actors.worker.draft.acceptance import LEVELS
from actors.worker.draft.draft import Context
from actors.worker.draft.tree import Guess
from actors.worker.models import LoadedModel, load_model
from actors.worker.step_cost import CostModel, Work, attended
from kernels.decoder import Batch, Decoder, Float32, Int32
from protos.gen import worker_pb2

LEAST_CHANCE = 0.05
"""A draft less likely than this is not continued."""
CATCH_UP = 256
"""Most tokens of a proposal's first forward, unless more rows than that want one each."""


def load_draft_model(path: str, vocabulary: worker_pb2.Vocabulary, build: Callable[[LoadedModel], Decoder]) -> Decoder:
    """The decoder of a draft model (an alias, a file or a directory) for a target of `vocabulary`.

    `build` makes a decoder as the target's was made. Raises what loading raises, and InvalidArgument where a token of
    one is another of the other, naming both vocabularies.
    """
    model = load_model(path)
    ours, theirs = vocabulary, model.vocabulary
    if ours.vocab_size != theirs.vocab_size or ours.tokenizer_json != theirs.tokenizer_json:
        raise InvalidArgument(
            f"draft_model = {path!r} has another vocabulary ({theirs.vocab_size} tokens, {_name(theirs)}) than the "
            f"model it drafts for ({ours.vocab_size} tokens, {_name(ours)}); a model with the same one is accepted",
            param="draft_model",
        )
    return build(model)


def _name(vocabulary: worker_pb2.Vocabulary) -> str:
    return f"sha256 {digest_of(vocabulary).hex()[:12]}"


class _Past:
    """What the model's KV holds of a row: `known` of its tokens, then what it drafted after them."""

    def __init__(self, most_pages: int) -> None:
        self.pages = np.full(most_pages, -1, np.int32)
        self.page_count = 0
        self.known = 0
        self.drafted: list[int] = []

    def agreed(self, tokens: Int32) -> int:
        """How many tokens of its KV are the row's first ones; at least one of the row's is left to compute."""
        known = self.known
        for token in self.drafted:
            if known >= len(tokens) or tokens[known] != token:
                break
            known += 1
        return min(known, len(tokens) - 1)


class DraftModel:
    """A Proposer (actors.worker.draft.proposer) over a decoder with the target's vocabulary."""

    source = "model"

    def __init__(self, decoder: Decoder, *, pages: int, page_size: int, context_length: int) -> None:
        """A slab of `pages` pages for all rows, each at most `context_length` tokens (or as the model's own is).

        Raises MemoryError where the slab cannot be had. A row that finds no page free gets no drafts.
        """
        self._decoder = decoder
        self._kv = decoder.allocate_kv(pages, page_size)
        self._free = list(range(pages - 1, -1, -1))
        self._context_length = min(context_length, decoder.spec.context_length)
        self._pasts: dict[int, _Past] = {}
        self._cost = CostModel()

    def drop(self, slot: int) -> None:
        """As Proposer.drop."""
        past = self._pasts.pop(slot, None)
        if past is not None:
            self._free.extend(past.pages[: past.page_count].tolist())

    def expected_ms(self, contexts: Sequence[Context], depth: int) -> float:
        """As Proposer.expected_ms: the first forward with all that has to be caught up, then a token a row."""
        cost = self._cost.cost
        if cost is None:
            return 0.0
        pending = [len(each.tokens) - self._agreed(each) for each in contexts]
        first = Work(sum(count for count in pending if count > 1), sum(count == 1 for count in pending), 0)
        context = sum(len(each.tokens) for each in contexts)
        return cost.step_ms(first) + (depth - 1) * cost.step_ms(Work(0, len(contexts), context))

    def propose(self, contexts: Sequence[Context], depth: int) -> list[Guess | None]:
        """As Proposer.propose: the model's likeliest tokens, each as sure as the model is of it."""
        rows, logits = self._caught_up(contexts)
        tokens: list[list[int]] = [[] for _ in contexts]
        levels: list[list[int]] = [[] for _ in contexts]
        chances = np.ones(len(rows))
        while len(rows):
            best = logits.argmax(axis=1)
            peak = logits[np.arange(len(rows)), best]
            sure = 1 / np.exp(logits - peak[:, None]).sum(axis=1)
            for row, token, chance in zip(rows, best.tolist(), sure.tolist(), strict=True):
                tokens[row].append(token)
                levels[row].append(round(chance * (LEVELS - 1)))
            chances = chances * sure
            on = [
                at
                for at, row in enumerate(rows)
                if len(tokens[row]) < depth and chances[at] >= LEAST_CHANCE and self._room(contexts[row], tokens[row])
            ]
            rows, chances = [rows[at] for at in on], chances[on]
            if rows:
                logits = self._forward([(contexts[row].slot, tokens[row][-1:]) for row in rows], len(rows))
                for row in rows:
                    self._pasts[contexts[row].slot].drafted.append(tokens[row][-1])
        return [Guess("model", of, sure) if of else None for of, sure in zip(tokens, levels, strict=True)]

    def _agreed(self, context: Context) -> int:
        past = self._pasts.get(context.slot)
        return 0 if past is None else past.agreed(context.tokens)

    def _caught_up(self, contexts: Sequence[Context]) -> tuple[list[int], Float32]:
        """Compute the rows' tokens, the shortest backlogs first; indices of those up to date, with their logits."""
        backlog = sorted((len(each.tokens) - self._agreed(each), index) for index, each in enumerate(contexts))
        left = max(CATCH_UP, len(contexts))
        ready: list[tuple[int, int, list[int]]] = []  # index, slot, tokens to compute
        behind: list[tuple[int, list[int]]] = []
        for pending, index in backlog:
            slot, tokens, _, _ = contexts[index]
            count = min(pending, left)
            known = len(tokens) - pending + count
            if count == 0 or known >= self._context_length or not self._reserve(slot, known):
                continue
            past = self._pasts[slot]
            past.known, past.drafted = known - count, []
            left -= count
            chunk = tokens[known - count : known].tolist()
            if count == pending:
                ready.append((index, slot, chunk))
            else:
                behind.append((slot, chunk))
        if not ready and not behind:
            return [], np.zeros((0, 0), np.float32)
        chunks = [(slot, chunk) for _, slot, chunk in ready] + behind
        logits = self._forward(chunks, len(ready))
        for slot, chunk in chunks:
            self._pasts[slot].known += len(chunk)
        return [index for index, _, _ in ready], logits

    def _room(self, context: Context, tokens: list[int]) -> bool:
        """Whether the next token of a draft has a place in the KV."""
        known = len(context.tokens) + len(tokens)
        return known < self._context_length and self._reserve(context.slot, known)

    def _reserve(self, slot: int, tokens: int) -> bool:
        """Pages for so many tokens of a row; False where there are no more."""
        past = self._pasts.get(slot)
        if past is None:
            past = self._pasts[slot] = _Past(-(-self._context_length // self._kv.page_size))
        while past.page_count * self._kv.page_size < tokens:
            if not self._free:
                return False
            past.pages[past.page_count] = self._free.pop()
            past.page_count += 1
        return True

    def _forward(self, chunks: Sequence[tuple[int, list[int]]], wanted: int) -> Float32:
        """Compute the next tokens of slots; logits [wanted, vocab] after the last token of the first ones."""
        began = time.perf_counter()
        pasts = [self._pasts[slot] for slot, _ in chunks]
        counts = np.array([len(tokens) for _, tokens in chunks], np.int32)
        row_starts = np.zeros(len(chunks) + 1, np.int32)
        np.cumsum(counts, out=row_starts[1:])
        lengths = np.array([past.known + len(past.drafted) for past in pasts], np.int32)
        pages = max(past.page_count for past in pasts)
        batch = Batch(
            np.array([token for _, tokens in chunks for token in tokens], np.int32),
            row_starts,
            lengths,
            np.stack([past.pages[:pages] for past in pasts]),
            row_starts[1 : wanted + 1] - 1,
        )
        logits = np.asarray(self._decoder.forward(batch, self._kv))
        prefill = int(counts[counts > 1].sum())
        seen = sum(attended(count, length) for count, length in zip(counts.tolist(), lengths.tolist(), strict=True))
        work = Work(prefill, int((counts == 1).sum()), seen)
        self._cost.learn(work, (time.perf_counter() - began) * 1e3)
        return logits
