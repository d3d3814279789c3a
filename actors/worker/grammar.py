"""Rows whose output is of a grammar: each has a matcher, which says after every token what may follow.

Nothing of this happens between two steps. A grammar is compiled, and what a resumed row has emitted is consumed, in a
thread of its own while other rows decode and the row's own prompt is computed. The masks of a step are filled by
another thread while its forward runs (kernels.bell.Errand):

    engine   | draw(k) forward .......... | sample | draw(k+1) forward ....... | sample |
    filler     consume k-1's tokens, masks ^         consume k's tokens, masks  ^

Where a grammar leaves no choice for several tokens, the filler finds them: they are known before they are drawn, and
the next step computes them together, as the beginning of the row's draft (actors.worker.verify).
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from actors.base.errors import InvalidArgument
from actors.base.grammar import reason, source
from actors.base.vocabulary import Vocabulary
from actors.worker.closing import Closer
from actors.worker.masks import Filler, Wanted
from actors.worker.matcher import Matcher
from actors.worker.rows import Rows
from actors.worker.verify import NO_GUESS, Guess
from kernels.bell import Errand
from kernels.decoder import Int32
from protos.gen import inference_pb2, worker_pb2

COMPILED_KEPT = 64
"""Grammars that are kept compiled; a row of one starts with a copy, which takes microseconds."""


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
