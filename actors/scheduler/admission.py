"""From a GenerateRequest to a Sequence, or to the error that says why not."""

from typing import NamedTuple

from actors.base.errors import Internal, InvalidArgument
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.formats import FORMATS
from actors.scheduler.pages import pages_for
from actors.scheduler.sequence import LEVELS, Sequence
from protos.gen import inference_pb2, scheduler_pb2, worker_pb2


class Range(NamedTuple):
    """Values a sampling field may have."""

    low: float
    high: float
    low_included: bool = True
    high_included: bool = True

    def holds(self, value: float) -> bool:
        """Whether the value is in the range."""
        # A NaN compares false everywhere, so it is in no range.
        above = value >= self.low if self.low_included else value > self.low
        below = value <= self.high if self.high_included else value < self.high
        return above and below

    def __str__(self) -> str:
        return f"{'[' if self.low_included else '('}{self.low:g}, {self.high:g}{']' if self.high_included else ')'}"


# As inference.proto states them.
SAMPLING_RANGES = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, low_included=False),
    "top_k": Range(0, 2**32 - 1),
    "min_p": Range(0, 1, high_included=False),
    "repetition_penalty": Range(0, float("inf"), low_included=False, high_included=False),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "seed": Range(0, 2**64 - 1),
}
MOST_SOURCES = 8
MOST_LOGPROBS = 20
MOST_STOP_IDS = 32
LOGIT_BIAS_RANGE = Range(-100, 100)


def admit(
    request: scheduler_pb2.GenerateRequest,
    hello: worker_pb2.HelloReply,
    config: SchedulerConfig,
    *,
    index: int,
    now_s: float,
) -> Sequence:
    """Check a request against the model and the slab; raises InvalidArgument naming the parameter.

    The sequence may have no token left to generate: a resumed stream whose last token had been sent already.
    """
    vocabulary = hello.vocabulary
    for name in ("request_id", "tenant", "session_id"):
        if len(value := getattr(request, name)) > config.max_id_chars:
            raise _invalid(name, f"has {len(value)} characters", f"at most {config.max_id_chars}")
    if not request.request_id:
        raise _invalid("request_id", "is empty", "a unique name")
    token_ids = list(request.token_ids)
    if not token_ids:
        raise _invalid("token_ids", "is empty", "at least one token")
    if (largest := max(token_ids)) >= vocabulary.vocab_size:
        raise _invalid("token_ids", f"contains {largest}", f"ids below {vocabulary.vocab_size}")
    prompt_tokens = request.prompt_tokens
    if not 1 <= prompt_tokens <= len(token_ids):
        raise _invalid("prompt_tokens", f"is {prompt_tokens}", f"1 to len(token_ids) = {len(token_ids)}")
    max_length = _max_length(request, hello, prompt_tokens)
    if len(token_ids) > max_length:
        emitted = len(token_ids) - prompt_tokens
        raise _invalid(
            "token_ids", f"resumes after {emitted} emitted tokens", f"at most {max_length - prompt_tokens} here"
        )
    if request.min_tokens > max_length - prompt_tokens:
        raise _invalid(
            "min_tokens", f"is {request.min_tokens}", f"at most the {max_length - prompt_tokens} that may be generated"
        )
    _check_sampling(request.sampling, vocabulary.vocab_size)
    if request.priority not in LEVELS:
        raise _invalid("priority", f"is {request.priority}", f"one of {sorted(LEVELS)}")
    offered = offered_formats(hello)
    # The setting is a wish: nobody can do anything about it in a request.
    kv_format = request.kv_format or (config.kv_format if config.kv_format in offered else "f16")
    if kv_format not in offered:
        raise _invalid("kv_format", f"is {kv_format!r}", f"here {', '.join(offered)}")
    if len(request.stop_token_ids) > MOST_STOP_IDS:
        raise _invalid("stop_token_ids", f"has {len(request.stop_token_ids)} ids", f"at most {MOST_STOP_IDS}")
    if (largest := max(request.stop_token_ids, default=0)) >= vocabulary.vocab_size:
        raise _invalid("stop_token_ids", f"contains {largest}", f"ids below {vocabulary.vocab_size}")
    if request.logprobs > MOST_LOGPROBS:
        raise _invalid("logprobs", f"is {request.logprobs}", f"at most {MOST_LOGPROBS}")
    if request.score_from and not (request.HasField("logprobs") and request.score_from <= prompt_tokens):
        raise _invalid("score_from", f"is {request.score_from}", f"with logprobs, 1 to prompt_tokens = {prompt_tokens}")
    if len(request.prediction) > hello.model.context_length:
        most = f"at most the context's {hello.model.context_length}"
        raise _invalid("prediction", f"has {len(request.prediction)} tokens", most)
    if (largest := max(request.prediction, default=0)) >= vocabulary.vocab_size:
        raise _invalid("prediction", f"contains {largest}", f"ids below {vocabulary.vocab_size}")
    if len(request.kv_source) > MOST_SOURCES:
        raise _invalid("kv_source", f"has {len(request.kv_source)} addresses", f"at most {MOST_SOURCES}")
    if request.losses > config.max_recoveries:
        raise Internal(f"A worker was lost {request.losses} times in a row while it ran {request.request_id}.")
    return Sequence(
        request_id=request.request_id,
        num_losses=request.losses,
        token_ids=token_ids,
        num_prompt_tokens=prompt_tokens,
        max_length=max_length,
        arrival_s=now_s,
        index=index,
        level=LEVELS[request.priority],
        tenant=request.tenant,
        sampling=request.sampling,
        min_tokens=request.min_tokens,
        logprobs=request.logprobs if request.HasField("logprobs") else None,
        score_from=request.score_from if request.score_from < prompt_tokens else 0,
        kv_format=kv_format,
        keep=request.keep,
        kv_source=tuple(request.kv_source),
        prediction=tuple(request.prediction),
        grammar=request.grammar if request.HasField("grammar") else None,
        stop_ids=(*(() if request.ignore_eos else vocabulary.eos_ids), *request.stop_token_ids),
    )


def offered_formats(hello: worker_pb2.HelloReply) -> list[str]:
    """How KV may be held at a worker."""
    return [form for form in FORMATS if form in ("f16", "auto") or form in {tier.format for tier in hello.tiers}]


def _max_length(request: scheduler_pb2.GenerateRequest, hello: worker_pb2.HelloReply, prompt_tokens: int) -> int:
    """Tokens of prompt and answer at which the request ends (length): within the context and the slab."""
    context = hello.model.context_length
    # The last token's KV is never computed, so the slab holds one token less than prompt and answer have.
    slab = hello.pages * hello.page_size + 1
    held = f"the replica's {hello.pages} KV pages of {hello.page_size} tokens"
    if prompt_tokens >= context:
        raise _invalid(
            "token_ids", f"holds a prompt of {prompt_tokens} tokens", f"less than the context of {context} tokens"
        )
    if prompt_tokens >= slab:
        needed = pages_for(prompt_tokens, hello.page_size)
        raise _invalid("token_ids", f"holds a prompt that needs {needed} pages", f"what fits {held}")
    max_length = prompt_tokens + request.max_tokens if request.max_tokens else min(context, slab)
    if max_length > context:
        raise _invalid(
            "max_tokens",
            f"is {request.max_tokens}, which with {prompt_tokens} prompt tokens makes {max_length}",
            f"at most {context - prompt_tokens} (the context holds {context} tokens)",
        )
    if max_length > slab:
        needed = pages_for(max_length - 1, hello.page_size)
        raise _invalid(
            "max_tokens",
            f"is {request.max_tokens}, which with {prompt_tokens} prompt tokens needs {needed} pages",
            f"at most {slab - prompt_tokens}, what fits {held}",
        )
    return max_length


def _check_sampling(sampling: inference_pb2.Sampling, vocab_size: int) -> None:
    for name, values in SAMPLING_RANGES.items():
        if not sampling.HasField(name):
            raise _invalid(f"sampling.{name}", "is not set", f"a value in {values}; the gateway fills in defaults")
        if not values.holds(value := getattr(sampling, name)):
            raise _invalid(f"sampling.{name}", f"is {value:g}", f"a value in {values}")
    for token_id, bias in sampling.logit_bias.items():
        if token_id >= vocab_size:
            raise _invalid("sampling.logit_bias", f"names token {token_id}", f"ids below {vocab_size}")
        if not LOGIT_BIAS_RANGE.holds(bias):
            raise _invalid("sampling.logit_bias", f"gives token {token_id} {bias:g}", f"values in {LOGIT_BIAS_RANGE}")


def _invalid(param: str, found: str, accepted: str) -> InvalidArgument:
    return InvalidArgument(f"{param} {found}; accepted: {accepted}.", param=param)
