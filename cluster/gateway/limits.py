"""The one statement of which values a request may carry; HTTP and gRPC both check by it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from actors.base.errors import InvalidArgument
from protos.gen import inference_pb2

MAX_STOPS = 4
MAX_STOP_CHARS = 1024
MAX_STOP_TOKEN_IDS = 32
MAX_LOGIT_BIAS = 4096
MAX_SESSION_CHARS = 256
MAX_SESSIONS_LISTED = 1000
MAX_EMBED_TEXTS = 2048
KV_FORMATS = ("f16", "q8", "q4", "auto")
ROLES = ("system", "developer", "user", "assistant", "tool")


class Range(NamedTuple):
    """An interval of numbers; `low` or `high` itself may be left out of it."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is a number inside."""
        if not math.isfinite(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


RANGES = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, open_low=True),
    "top_k": Range(0, 1_000_000),
    "min_p": Range(0, 1, open_high=True),
    "repetition_penalty": Range(0, 100, open_low=True),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "max_tokens": Range(1, 10_000_000),
    "min_tokens": Range(0, 10_000_000),
    "logprobs": Range(0, 20),
    "n": Range(1, 32),
    "best_of": Range(1, 32),
    "logit_bias": Range(-100, 100),
    "rating": Range(-1, 1),
}


def check(name: str, value: float, param: str | None = None) -> None:
    """Refuse a number outside the range of `name`. `param` is what the client called it."""
    if not RANGES[name].holds(value):
        param = param or name
        raise InvalidArgument(f"{param} is {value:g}; accepted is a number in {RANGES[name]}", param=param)


def check_decoding(decoding: inference_pb2.Decoding, *, echo: bool = False) -> None:
    """Refuse decoding parameters outside their ranges, naming the first. echo: no new token may be wanted."""
    sampling = decoding.sampling
    for message in (sampling, decoding):
        for field, value in message.ListFields():
            if field.name in RANGES and field.name != "logit_bias" and not (echo and may_be_none(field.name, value)):
                check(field.name, value)
    if len(sampling.logit_bias) > MAX_LOGIT_BIAS:
        raise InvalidArgument(
            f"logit_bias has {len(sampling.logit_bias)} entries; accepted are up to {MAX_LOGIT_BIAS}",
            param="logit_bias",
        )
    for token, bias in sampling.logit_bias.items():
        check("logit_bias", bias, f"logit_bias.{token}")
    if decoding.HasField("max_tokens") and decoding.min_tokens > decoding.max_tokens:
        raise InvalidArgument(
            f"min_tokens is {decoding.min_tokens}; accepted is up to max_tokens, {decoding.max_tokens}",
            param="min_tokens",
        )
    if decoding.best_of and decoding.best_of < max(decoding.n, 1):
        raise InvalidArgument(
            f"best_of is {decoding.best_of} and n is {max(decoding.n, 1)}; accepted is at least n", param="best_of"
        )
    if len(decoding.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidArgument(
            f"stop_token_ids has {len(decoding.stop_token_ids)} ids; accepted are up to {MAX_STOP_TOKEN_IDS}",
            param="stop_token_ids",
        )
    check_stop(decoding.stop)
    if decoding.HasField("grammar"):
        for name in ("ignore_eos", "min_tokens"):
            if getattr(decoding, name):
                raise InvalidArgument(
                    f"{name} is set, but the grammar (response_format, russet.grammar) says where the answer ends; "
                    f"accepted is one of the two",
                    param=name,
                )


def may_be_none(name: str, value: float) -> bool:
    """Whether this says that an echoed prompt is all that is wanted."""
    return name == "max_tokens" and value == 0


def check_stop(stops: Sequence[str], param: str = "stop") -> None:
    """Refuse too many, empty or overlong stop strings. `param` is what the client called them."""
    if len(stops) > MAX_STOPS:
        raise InvalidArgument(f"{param} has {len(stops)} strings; accepted are up to {MAX_STOPS}", param=param)
    for text in stops:
        if not 1 <= len(text) <= MAX_STOP_CHARS:
            raise InvalidArgument(
                f"a stop string has {len(text)} characters; accepted are 1 to {MAX_STOP_CHARS}", param=param
            )


def check_session(session_id: str) -> None:
    """Refuse a session id that is too long to be kept."""
    if len(session_id) > MAX_SESSION_CHARS:
        raise InvalidArgument(
            f"session_id has {len(session_id)} characters; accepted are up to {MAX_SESSION_CHARS}", param="session_id"
        )


def check_kv_format(kv_format: str, param: str) -> None:
    """Refuse a form of KV that there is not; empty asks for none. `param` is what the client called it."""
    if kv_format and kv_format not in KV_FORMATS:
        raise InvalidArgument(
            f"{param} is {kv_format[:40]!r}; accepted are {', '.join(KV_FORMATS)}, or leaving it out", param=param
        )
