"""Rows whose output is of a grammar: each has a matcher, which says after every token what may follow.

Nothing of this happens between two steps. A grammar is compiled, and what a resumed row has emitted is consumed, in a
thread of its own while other rows decode and the row's own prompt is computed. The masks of a step are filled by
another thread while its forward runs (kernels.bell.Errand):

    engine   | draw(k) forward .......... | sample | draw(k+1) forward ....... | sample |
    filler     consume k-1's tokens, masks ^         consume k's tokens, masks  ^

Where a grammar leaves no choice for several tokens, the filler finds them: they are known before they are drawn, and
the next step computes them together, as the beginning of the row's draft (actors.worker.verify).
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer, TokenizerWrapper

from actors.base.errors import InvalidArgument
from actors.base.grammar import reason, source
from actors.base.vocabulary import Vocabulary
from actors.worker.closing import EVERY, MARGIN, Closer
from actors.worker.rows import Rows
from actors.worker.verify import NO_GUESS, Guess
from kernels.bell import Errand, ring, wait
from kernels.decoder import Int32
from kernels.sampling import UInt32
from protos.gen import inference_pb2, worker_pb2

EVERYTHING = np.uint32(0xFFFFFFFF)
"""A word of a mask that allows all of its ids."""
COMPILED_KEPT = 64
"""Grammars that are kept compiled; a row of one starts with a copy, which takes microseconds."""


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


class Wanted(NamedTuple):
    """Masks of a step: of a row that knows `known` tokens, the last of them `tokens`, and has a draft.

    The first mask is of what follows the forced tokens, the others of what follows each further one of the draft.
    """

    matcher: Matcher | None  # None leaves everything allowed
    known: int
    tokens: list[int]
    guess: Guess


class Compiler:
    """Grammars to matchers, over one vocabulary. For one thread."""

    def __init__(self, message: worker_pb2.Vocabulary) -> None:
        self._message = message
        self._tokenizer: LLTokenizer | None = None
        self._closer: Closer | None = None
        self._compiled: OrderedDict[bytes, LLMatcher] = OrderedDict()

    def matcher(self, start: worker_pb2.RowStart) -> Matcher:
        """The matcher of a row that begins, or goes on after the output that it has. Raises InvalidArgument."""
        state = self._begun(start.grammar).deep_copy()
        output = list(start.token_ids[start.prompt_tokens :])
        closer = self._closing() if start.grammar.close else None
        matcher = Matcher(state, start.prompt_tokens, start.max_length, closer)
        matcher.consume(output)
        if state.is_error():
            raise InvalidArgument(f"the {len(output)} tokens emitted before are not of its grammar")
        return matcher

    def _closing(self) -> Closer:
        if self._closer is None:
            vocabulary = Vocabulary.from_message(self._message)
            plain = [token not in vocabulary.special_ids for token in range(vocabulary.size)]
            pieces = [vocabulary.token_bytes(token) if plain[token] else b"" for token in range(vocabulary.size)]
            self._closer = Closer(pieces, min(vocabulary.eos_ids))
        return self._closer

    def _begun(self, grammar: inference_pb2.Grammar) -> LLMatcher:
        key = grammar.SerializeToString(deterministic=True)
        begun = self._compiled.get(key)
        if begun is None:
            if self._tokenizer is None:
                self._tokenizer = tokenizer_of(self._message)
            begun = LLMatcher(self._tokenizer, source(grammar), log_level=0)
            if begun.is_error():
                raise InvalidArgument(f"its grammar does not compile: {reason(begun.get_error())}")
            begun.compute_bitmask()  # the first mask is by far the dearest; copies find what it found
            self._compiled[key] = begun
            if len(self._compiled) > COMPILED_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return begun


class Grammars:
    """The constrained rows of a batch. The engine thread owns it, and calls everything but what threads are for."""

    def __init__(self, rows: Rows, vocabulary: worker_pb2.Vocabulary, wake: Callable[[], None]) -> None:
        """`wake` is called, from another thread, when a row may run that waited for its matcher."""
        self._rows = rows
        self._compiler = Compiler(vocabulary)
        self._wake = wake
        self._pool: ThreadPoolExecutor | None = None
        self._compiling: dict[int, Future[Matcher]] = {}
        """By slot; Rows.waiting is set for each."""
        self._matchers: dict[int, Matcher] = {}
        self._refused: dict[int, str] = {}
        """Slots whose grammar gave no matcher."""
        self._filler: Filler | None = None

    def start(self, slot: int, start: worker_pb2.RowStart) -> None:
        """Begin to make the slot's matcher."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "worker-grammar")
        self._rows.constrained[slot] = self._rows.waiting[slot] = True
        future = self._compiling[slot] = self._pool.submit(self._compiler.matcher, start)
        future.add_done_callback(lambda _: self._wake())

    def drop(self, slot: int) -> None:
        """Forget the slot's grammar, if it has one."""
        if self._rows.constrained[slot]:
            self._rows.constrained[slot] = self._rows.waiting[slot] = False
            if (future := self._compiling.pop(slot, None)) is not None:
                future.cancel()
            self._matchers.pop(slot, None)
            self._refused.pop(slot, None)
            if self._filler is not None:
                self._filler.forcing = False

    @property
    def arrived(self) -> bool:
        """Whether `collect` has something to do."""
        return bool(self._compiling) and any(future.done() for future in self._compiling.values())

    def collect(self) -> None:
        """Take the matchers that are done: their rows may draw."""
        for slot in [slot for slot, future in self._compiling.items() if future.done()]:
            future = self._compiling.pop(slot)
            failure = future.exception()
            if failure is None:
                self._matchers[slot] = future.result()
            else:
                self._refused[slot] = str(failure)
            self._rows.waiting[slot] = False

    def forced(self, slot: int, known: int) -> list[int]:
        """Tokens that are certain to follow the `known` ones of a slot."""
        matcher = self._matchers.get(slot)
        return matcher.forced(known) if matcher is not None else []

    def room(self, slot: int, known: int) -> int | None:
        """Most tokens that may be drafted for a slot after its `known` ones; None sets no limit."""
        matcher = self._matchers.get(slot)
        return matcher.room(known) if matcher is not None else None

    @property
    def forcing(self) -> bool:
        """Whether, since the last fill, more than one token of a row is certain to follow."""
        return self._filler is not None and self._filler.forcing

    def fill(self, slots: Int32, known: Int32, newest: Int32, guesses: Sequence[Guess] | None = None) -> Errand:
        """Have the first of Rows.masks filled for slots [M] when the errand is run: one a slot, and one a guess.

        slots: constrained and not waiting. known: [M], tokens of each row. newest: [M], the last of these.
        """
        if self._filler is None:
            self._filler = Filler(self._rows.masks)
        self._filler.wanted = wanted = []
        for index, (slot, at, token) in enumerate(zip(slots.tolist(), known.tolist(), newest.tolist(), strict=True)):
            guess = NO_GUESS if guesses is None else guesses[index]
            matcher = self._matchers.get(slot)
            behind = max(at - matcher.known, 0) if matcher is not None else 0
            # Rows itself may lag, but then a matcher never does by more than the newest token.
            tokens = [token] if behind == 1 else self._rows.tokens[slot, at - behind : at].tolist()
            wanted.append(Wanted(matcher, at, tokens, guess))
        return self._filler.errand

    def failures(self, slots: Int32) -> dict[int, str]:
        """By index into `slots` of the last fill: why a row has no mask. What was drawn for it means nothing.

        Raises what went wrong in the filler itself.
        """
        filler = self._filler
        if filler is None:
            return {}
        if filler.failure is not None:
            raise filler.failure
        failed = {}
        if self._refused or filler.errors:
            for index, slot in enumerate(slots.tolist()):
                if why := self._refused.get(slot) or filler.errors.get(index):
                    failed[index] = f"the grammar cannot go on: {why}"
        return failed

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._filler is not None:
            self._filler.close()


class Filler:
    """The thread that consumes tokens and fills masks, once for each ring of `errand.begin`."""

    def __init__(self, masks: UInt32) -> None:
        """masks: [R, words], written from its first row on."""
        self.wanted: list[Wanted] = []
        """What the next errand fills, one after the other. Set before it begins."""
        self.errors: dict[int, str] = {}
        """By index into `wanted`, of the last errand; their masks allow everything."""
        self.forcing = False
        self.failure: Exception | None = None
        """What went wrong in an errand as a whole."""
        self._masks = masks
        # llguidance spreads a step's masks over these; a forward wants the cores more.
        self._executor = LLExecutor(max(1, min(4, (os.cpu_count() or 1) // 2)))
        self._begun, begin = _channel()
        done, self._done = _channel()
        self.errand = Errand(begin, done)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="worker-masks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; no errand may be on its way."""
        self._closing = True
        ring(self.errand.begin)
        self._thread.join()
        for descriptor in {*self.errand, self._begun, self._done}:
            os.close(descriptor)

    def _run(self) -> None:
        while True:
            wait(self._begun)
            if self._closing:
                return
            try:
                self._fill()
            except Exception as failure:
                self.failure = failure
            finally:
                ring(self._done)

    def _fill(self) -> None:
        self.errors = {}
        wanted, masks = self.wanted, self._masks
        self._consume(one for one in wanted if one.matcher is not None)
        plain, guessing, at = [], [], 0
        for matcher, _, _, guess in wanted:
            end = at + 1 + len(guess.tokens)
            masks[at:end] = EVERYTHING
            if matcher is not None and guess.tokens:
                guessing.append((matcher.state, at, guess.tokens))
            elif matcher is not None:
                plain.append((matcher.state, at))
            at = end
        into = masks.ctypes.data, masks.strides[0], len(masks)
        if plain:
            self._executor.unsafe_compute_mask_ptr(plain, *into)
        if guessing:
            # What does not fit the grammar is no token that can be drawn: nobody asks what follows it.
            self._executor.unsafe_compute_mask_ptr_with_draft_token(guessing, *into)
        at = 0
        self.forcing = False
        for index, one in enumerate(wanted):
            end = at + 1 + len(one.guess.tokens)
            if one.matcher is not None:
                if one.matcher.state.is_error():
                    masks[at:end] = EVERYTHING
                    self.errors[index] = one.matcher.error
                else:
                    self._narrow(one.matcher, masks[at:end])
            at = end

    def _consume(self, wanted: Iterable[Wanted]) -> None:
        """Bring the states to where their first masks are."""
        behind = []
        for matcher, known, tokens, guess in wanted:
            assert matcher is not None
            matcher.rewind(known)
            if len(tokens) == 1 and not guess.forced:
                behind.append((matcher, tokens[0]))
            else:
                matcher.consume(tokens)
                matcher.foresay(guess.forced)
        if behind:
            self._executor.consume_token_par([(matcher.state, token) for matcher, token in behind])
            for matcher, token in behind:
                matcher.consumed(token)

    def _narrow(self, matcher: Matcher, masks: UInt32) -> None:
        """Of a row's masks: what of them its way out changes, and what its draft left empty."""
        for mask in masks[1:]:
            if not mask.any():
                mask[:] = EVERYTHING
        for mask, only in zip(masks, matcher.way, strict=False):
            mask[:] = 0
            mask[only // 32] = 1 << only % 32
        self.forcing |= matcher.foresee()


def tokenizer_of(message: worker_pb2.Vocabulary) -> LLTokenizer:
    """The vocabulary as llguidance has it: the very bytes of every token, and the ids that end an answer.

    Read by llguidance itself where it finds the same bytes, since it then never has to call Python.
    """
    vocabulary = Vocabulary.from_message(message)
    ends = sorted(vocabulary.eos_ids)
    if not ends:
        raise InvalidArgument("the model has no token that ends an answer, so none can be held to a grammar")
    tokens = [vocabulary.token_bytes(token) for token in range(vocabulary.size)]
    try:
        tokenizer = LLTokenizer(message.tokenizer_json.decode(), n_vocab=vocabulary.size, eos_token=ends)
    except ValueError:
        tokenizer = None  # a kind of tokenizer that it does not read
    if tokenizer is not None and all(tokenizer.decode_bytes([token]) == piece for token, piece in enumerate(tokens)):
        return tokenizer
    return LLTokenizer(TokenizerWrapper(_Pieces(vocabulary, tokens)), n_vocab=vocabulary.size, eos_token=ends)


class _Pieces:
    """What llguidance asks of a tokenizer."""

    def __init__(self, vocabulary: Vocabulary, tokens: list[bytes]) -> None:
        self._vocabulary = vocabulary
        self.tokens = tokens
        self.eos_token_id = min(vocabulary.eos_ids)
        self.bos_token_id = vocabulary.bos_id
        self.special_token_ids = sorted(vocabulary.special_ids)

    def __call__(self, text: bytes) -> list[int]:
        return self._vocabulary.encode(text.decode(), add_bos=False, special=False)


def _channel() -> tuple[int, int]:
    """Where rings are waited for, blocking, and where they are rung: eight bytes each time."""
    if hasattr(os, "eventfd"):
        both = os.eventfd(0, os.EFD_CLOEXEC)
        return both, both
    return os.pipe()
