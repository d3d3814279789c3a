"""How far a text is of a grammar: judged afterwards and by other means than those that held the answer to it.

JSON is judged by a library of its own (see json_conformance), the other languages by matching the text's bytes.
"""

from typing import NamedTuple

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from actors.base.errors import InvalidArgument
from actors.base.grammar import source
from protos.gen import inference_pb2


class Verdict(NamedTuple):
    """What came of judging a text."""

    share: float
    """Valid share, 0 to 1; 1 exactly where the text is of the grammar. Of JSON: the leaves (scalars and empty
    containers) in which nothing is wrong, among those that are there or missing. Of other languages: the bytes before
    the first that cannot follow."""
    problems: tuple[str, ...] = ()
    """What is wrong and where, in words; none where the text is of the grammar."""


def judge(text: str, grammar: inference_pb2.Grammar) -> Verdict:
    """Judge a text. Raises InvalidArgument for a grammar that cannot be read."""
    if grammar.WhichOneof("language") == "json_schema":
        from actors.base.json_conformance import judge_json  # the gateway compiles grammars and may never judge one

        return judge_json(text, grammar.json_schema)
    return _judge_bytes(text.encode(), grammar)


class _Bytes:
    """A tokenizer of 256 bytes and an end."""

    tokens = (*(bytes([byte]) for byte in range(256)), b"<|end|>")
    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


BYTES = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=257, eos_token=256)
"""Over bytes, what a grammar lets through is the same as over any vocabulary."""


def _judge_bytes(text: bytes, grammar: inference_pb2.Grammar) -> Verdict:
    matcher = LLMatcher(BYTES, source(grammar), log_level=0)
    if matcher.is_error():
        raise InvalidArgument(f"the grammar cannot be read: {matcher.get_error()}")
    matched = matcher.try_consume_tokens(list(text))
    if matched < len(text):
        followed = text[matched : matched + 40].decode("utf-8", "replace")
        return Verdict(matched / len(text), (f"byte {matched}: {followed!r} cannot follow",))
    if not matcher.is_accepting():
        return Verdict(matched / (matched + 1), (f"it ends after {matched} bytes, where more has to follow",))
    return Verdict(1.0)
