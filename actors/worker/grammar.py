"""Rows whose output is of a grammar: each has a matcher, which says after every token what may follow.

Nothing of this happens between two steps. A grammar is compiled, and what a resumed row has emitted is consumed, in a
thread of its own while other rows decode and the row's own prompt is computed. The masks of a step are filled by
another thread while its forward runs (kernels.bell.Errand):

    engine   | draw(k) forward .......... | sample | draw(k+1) forward ....... | sample |
    filler     consume k-1's tokens, masks ^         consume k's tokens, masks  ^
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer, TokenizerWrapper

from actors.base.errors import InvalidArgument
from actors.base.grammar import reason, source
from actors.base.vocabulary import Vocabulary
from actors.worker.closing import EVERY, MARGIN, Closer
from actors.worker.rows import Rows
from kernels.bell import Errand, ring, wait
from kernels.decoder import Int32
from protos.gen import inference_pb2, worker_pb2

COMPILED_KEPT = 64
"""Grammars that are kept compiled; a row of one starts with a copy, which takes microseconds."""


class Matcher:
    """One row's: the state of its grammar after `known` tokens of the row."""

    def __init__(self, state: LLMatcher, known: int, max_length: int = 0, closer: Closer | None = None) -> None:
        """`closer` is given where the structure is to be closed before the row has max_length tokens."""
        self.state = state
        self.known = known
        self._max_length = max_length
        self._closer = closer
        self._way: list[int] | None = None
        """Where the row is on its way out: what is still to be said."""
        self.look()

    def consumed(self, token: int) -> None:
        """The state has taken one more token."""
        self.known += 1
        if self._way:
            del self._way[0]
        self.look()

    def look(self) -> None:
        """Find the way out where it is time to look for it, and take it where it is time to."""
        left = self._max_length - self.known
        if self._closer is None or self._way is not None or left % EVERY or self.state.is_error():
            return
        way = self._closer.way(self.state, left - 1)
        if way is not None and len(way) + EVERY + MARGIN >= left:
            self._way = way

    @property
    def only(self) -> int | None:
        """The one token that may be drawn, where the row is on its way out."""
        return self._way[0] if self._way else None

    @property
    def error(self) -> str:
        """Why no mask can be had; empty where one can."""
        return reason(self.state.get_error()) if self.state.is_error() else ""


class Wanted(NamedTuple):
    """One mask of a step: of the row that knows `known` tokens, the newest of them `token`."""

    matcher: Matcher
    known: int
    token: int


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
        for token in output:
            if not state.consume_token(token):
                raise InvalidArgument(f"the {len(output)} tokens emitted before are not of its grammar")
            matcher.consumed(token)
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

    def fill(self, slots: Int32, known: Int32, tokens: Int32) -> Errand:
        """Have Rows.masks[i] filled for slots[i] when the errand is run.

        slots: [M], constrained and not waiting. known: [M], tokens of each row. tokens: [M], the newest of each.
        """
        if self._filler is None:
            self._filler = Filler(self._rows.masks)
        self._filler.wanted = [
            Wanted(self._matchers[slot], at, token) if slot in self._matchers else None
            for slot, at, token in zip(slots.tolist(), known.tolist(), tokens.tolist(), strict=True)
        ]
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

    def __init__(self, masks: "np.ndarray[tuple[int, int], np.dtype[np.uint32]]") -> None:
        """masks: [R, words], written from its first row on."""
        self.wanted: list[Wanted | None] = []
        """What the next errand fills, by row of the masks; None leaves everything allowed. Set before it begins."""
        self.errors: dict[int, str] = {}
        """By row of the masks, of the last errand; their rows allow everything."""
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
        wanted = self.wanted
        behind = [one for one in wanted if one is not None and one.matcher.known < one.known]
        if behind:
            self._executor.consume_token_par([(one.matcher.state, one.token) for one in behind])
            for one in behind:
                one.matcher.consumed(one.token)
        masks = self._masks
        states = [(one.matcher.state, index) for index, one in enumerate(wanted) if one is not None]
        if states:
            self._executor.unsafe_compute_mask_ptr(states, masks.ctypes.data, masks.strides[0], len(masks))
        for index, one in enumerate(wanted):
            if one is None or one.matcher.state.is_error():
                masks[index] = 0xFFFFFFFF
                if one is not None:
                    self.errors[index] = one.matcher.error
            elif (only := one.matcher.only) is not None:
                masks[index] = 0
                masks[index, only // 32] = 1 << only % 32


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
