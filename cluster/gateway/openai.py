"""OpenAI's request bodies to Russet's messages: every parameter is honoured, or refused by its name.

Three kinds of names: those a model below declares; those OpenAI has and Russet does not yet do, accepted only with
the values that ask for nothing (UNSUPPORTED); and all others, which are refused as unknown.
"""

from typing import Any, Literal

from pydantic import Field

from actors.base.errors import InvalidArgument
from actors.base.feedback import MOST, check_feedback
from cluster.gateway.answer_format import ResponseFormat, grammar_of
from cluster.gateway.bodies import ANY, Body, content_text, kind_of, shown
from cluster.gateway.errors import UnknownParameter, UnsupportedParameter
from cluster.gateway.extension import Extension, apply_extension, route_key
from cluster.gateway.limits import (
    MAX_EMBED_TEXTS,
    ROLES,
    check,
    check_stop,
    may_be_none,
)
from cluster.gateway.tools.bodies import FunctionTool, calls_of, choice_of, tool_of
from protos.gen import inference_pb2

_COMMON: dict[str, tuple[Any, ...]] = {
    "metadata": (ANY,),
    "prompt_cache_key": (ANY,),
    "service_tier": (None, "auto", "default"),
}
UNSUPPORTED_CHAT: dict[str, tuple[Any, ...]] = _COMMON | {
    "audio": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "prompt_cache_retention": (ANY,),
    "reasoning_effort": (None, "none"),
    "store": (None, False),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
UNSUPPORTED_COMPLETIONS: dict[str, tuple[Any, ...]] = _COMMON | {
    "suffix": (None, ""),
}


class StreamOptions(Body):
    """include_usage: one more chunk at the end, without choices, with the usage."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Generating(Body):
    """What chat and completions have in common. None is the same as absent."""

    model: str = ""
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    stop: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    safety_identifier: str | None = None
    russet: Extension | None = None


class Prediction(Body):
    """What the answer is likely to be: a text, or text parts."""

    type: Literal["content"]
    content: Any = Field()


class ChatBody(Generating):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    prediction: Prediction | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None


class CompletionBody(Generating):
    """POST /v1/completions."""

    prompt: Any = Field()
    logprobs: int | None = None
    best_of: int | None = None
    echo: bool | None = None


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: str = ""
    input: Any = Field()
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=65536)
    user: str | None = None


class FeedbackBody(Body):
    """POST /v1/feedback."""

    response_id: str
    rating: float | None = None
    outcome: Literal["success", "recovered", "partial", "failure"] | None = None
    correction: str = Field("", max_length=MOST["correction"])
    label: str = Field("", max_length=MOST["label"])
    comment: str = Field("", max_length=MOST["comment"])


def chat_request(body: ChatBody) -> inference_pb2.ChatRequest:
    """The same request as a message."""
    if not body.messages:
        raise InvalidArgument("messages is empty; accepted is at least one message", param="messages")
    request = inference_pb2.ChatRequest(
        model=body.model,
        decoding=_decoding(body),
        tools=[tool_of(tool.function) for tool in body.tools or ()],
        tool_choice=choice_of(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        route_key=route_key(body.user, body.safety_identifier),
    )
    for index, message in enumerate(body.messages):
        request.messages.append(_message(message, f"messages[{index}]"))
    if body.max_completion_tokens is not None:
        if body.max_tokens not in (None, body.max_completion_tokens):
            raise InvalidArgument(
                f"max_tokens is {body.max_tokens} and max_completion_tokens is {body.max_completion_tokens}; "
                "they name the same limit, give one",
                param="max_completion_tokens",
            )
        check("max_tokens", body.max_completion_tokens, "max_completion_tokens")
        request.decoding.max_tokens = body.max_completion_tokens
    if body.top_logprobs is not None:
        check("logprobs", body.top_logprobs, "top_logprobs")
        if body.top_logprobs and not body.logprobs:
            raise InvalidArgument(
                f"top_logprobs is {body.top_logprobs} without logprobs; accepted with logprobs = true",
                param="top_logprobs",
            )
    if body.logprobs:
        request.decoding.logprobs = body.top_logprobs or 0
    if body.prediction is not None:
        request.decoding.prediction = content_text(body.prediction.content, "prediction.content")
    apply_extension(request, body.russet)
    return request


def complete_request(body: CompletionBody) -> inference_pb2.CompleteRequest:
    """The same request as a message."""
    echo = bool(body.echo)
    request = inference_pb2.CompleteRequest(model=body.model, decoding=_decoding(body, echo=echo), echo=echo)
    request.route_key = route_key(body.user, body.safety_identifier)
    if body.logprobs is not None:
        check("logprobs", body.logprobs)
        request.decoding.logprobs = body.logprobs
    if body.best_of is not None:
        check("best_of", body.best_of)
        if body.stream and body.best_of > (body.n or 1):
            raise InvalidArgument(
                f"best_of is {body.best_of} with stream; accepted is up to n, {body.n or 1}: the best are known last",
                param="best_of",
            )
        request.decoding.best_of = body.best_of
    prompt = body.prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise UnsupportedParameter(
                f"prompt is a list of {len(prompt)} prompts; accepted is one prompt per request", param="prompt"
            )
        prompt = prompt[0]
    if isinstance(prompt, str):
        request.text = prompt
    elif isinstance(prompt, list) and prompt and all(type(token) is int and 0 <= token < 1 << 32 for token in prompt):
        request.tokens.ids.extend(prompt)
    else:
        raise InvalidArgument(
            f"prompt is {kind_of(prompt)}; accepted is a text or a non-empty list of token ids", param="prompt"
        )
    apply_extension(request, body.russet)
    return request


def embedding_texts(body: EmbeddingBody) -> list[str]:
    """The texts to embed."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        what = kind_of(body.input)
        raise InvalidArgument(f"input is {what}; accepted is a text or a non-empty list of texts", param="input")
    if len(texts) > MAX_EMBED_TEXTS:
        raise InvalidArgument(f"input has {len(texts)} texts; accepted are up to {MAX_EMBED_TEXTS}", param="input")
    return texts


def feedback_request(body: FeedbackBody) -> inference_pb2.FeedbackRequest:
    """The same as a message."""
    told = inference_pb2.FeedbackRequest(
        response_id=body.response_id,
        rating=body.rating,
        comment=body.comment,
        outcome=body.outcome,
        correction=body.correction,
        label=body.label,
    )
    check_feedback(told)
    return told


def _decoding(body: Generating, *, echo: bool = False) -> inference_pb2.Decoding:
    for name in ("n", "max_tokens", "min_tokens", "top_k"):
        value = getattr(body, name)
        if value is not None and not (echo and may_be_none(name, value)):
            check(name, value)
    decoding = inference_pb2.Decoding(
        sampling=inference_pb2.Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            seed=_seed(body.seed),
        ),
        max_tokens=body.max_tokens,
        min_tokens=body.min_tokens,
        ignore_eos=bool(body.ignore_eos),
        stop=_stop(body.stop),
        n=body.n or 0,
        grammar=grammar_of(body.response_format),
    )
    for name, bias in (body.logit_bias or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) <= 9):
            raise InvalidArgument(f"logit_bias has the key {name[:40]!r}; accepted are token ids", param="logit_bias")
        decoding.sampling.logit_bias[int(name)] = bias
    return decoding


def _seed(seed: int | None) -> int | None:
    """OpenAI's seed is a signed integer of 64 bits; ours is those bits."""
    if seed is None:
        return None
    if not -(1 << 63) <= seed < 1 << 64:
        raise InvalidArgument(f"seed is {seed}; accepted is an integer of 64 bits", param="seed")
    return seed & ((1 << 64) - 1)


def _stop(stop: Any) -> list[str]:
    texts = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidArgument(f"stop is {kind_of(stop)}; accepted is a text or a list of texts", param="stop")
    check_stop(texts)
    return texts


_MESSAGE_FIELDS = {"role", "content", "name", "tool_call_id", "tool_calls", "refusal", "audio", "function_call"}


def _message(message: dict[str, Any], where: str) -> inference_pb2.Message:
    for key, value in message.items():
        if key not in _MESSAGE_FIELDS:
            raise UnknownParameter(f"unknown parameter: {where}.{key[:80]}", param=f"{where}.{key[:80]}")
        if key in ("refusal", "audio", "function_call") and value not in (None, []):
            raise UnsupportedParameter(f"{where}.{key} is not supported; leave it out", param=f"{where}.{key}")
    role, name = message.get("role"), message.get("name")
    if role not in ROLES:
        accepted = ", ".join(ROLES)
        raise InvalidArgument(f"{where}.role is {shown(role)}; accepted are {accepted}", param=f"{where}.role")
    if name is not None and not isinstance(name, str):
        raise InvalidArgument(f"{where}.name is {kind_of(name)}; accepted is a text", param=f"{where}.name")
    content = message.get("content")
    if content is not None or role != "assistant":
        content = content_text(content, f"{where}.content")
    call_id = message.get("tool_call_id")
    if call_id is not None and not isinstance(call_id, str):
        raise InvalidArgument(
            f"{where}.tool_call_id is {kind_of(call_id)}; accepted is a text", param=f"{where}.tool_call_id"
        )
    return inference_pb2.Message(
        role="system" if role == "developer" else role,
        content=content,
        name=name,
        tool_calls=calls_of(message.get("tool_calls"), f"{where}.tool_calls"),
        tool_call_id=call_id,
    )
