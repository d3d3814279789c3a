"""A request as what a replica is asked for: its tokens, its parameters, what its answer is held to."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from cluster.gateway.catalog import ModelView
from cluster.gateway.checks import echoes, most_tokens
from cluster.gateway.grammars import Grammars
from cluster.gateway.healing import heal
from cluster.gateway.prompt import GenerateMessage, checked_ids, every_field, ids_of
from cluster.gateway.tools.plan import ToolPlan, plan_of
from protos.gen import inference_pb2, scheduler_pb2

INLINE_CHARS = 8192
"""Shorter prompts are rendered and tokenized (well under a millisecond) on the event loop; a thread costs more."""


class Asked(NamedTuple):
    """One request over one model's vocabulary."""

    generate: scheduler_pb2.GenerateRequest
    """But for who asks: request_id and tenant."""
    plan: ToolPlan | None
    """Where the answer may call tools."""
    tail: str
    """Of the prompt, what the answer has to begin with (cluster.gateway.healing); not part of its text."""


async def asked_of(
    request: GenerateMessage,
    view: ModelView,
    model: str,
    grammars: Grammars,
    known: Sequence[int],
    max_tokens_default: int | None,
) -> Asked:
    """The request for this model, called `model`. `known`: the session so far as tokens.

    Raises InvalidArgument naming what the model cannot do.
    """
    decoding = request.decoding
    plan = await plan_of(request, view, grammars) if isinstance(request, inference_pb2.ChatRequest) else None
    if plan is None or decoding.grammar.WhichOneof("language"):
        await grammars.check(decoding, view)
    ids, tail = await _tokenized(request, view, known), ""
    grammar = decoding.grammar if decoding.HasField("grammar") else None
    if plan is not None:
        grammar = plan.grammar
    if isinstance(request, inference_pb2.CompleteRequest) and request.token_healing:
        healed = heal(ids, view.vocabulary)
        ids, tail, grammar = healed.ids, healed.tail, healed.grammar
    tells = decoding.HasField("logprobs")
    generate = scheduler_pb2.GenerateRequest(
        token_ids=ids,
        prompt_tokens=len(ids),
        sampling=every_field(decoding.sampling),
        max_tokens=most_tokens(request, ids, view, model, max_tokens_default),
        min_tokens=decoding.min_tokens,
        ignore_eos=decoding.ignore_eos,
        priority=request.priority,
        session_id=request.session_id,
        kv_format=request.kv_format,
        logprobs=decoding.logprobs if tells else None,
        stop_token_ids=decoding.stop_token_ids,
        prediction=await _predicted(decoding.prediction, view),
        score_from=1 if tells and echoes(request) and len(ids) > 1 else 0,
        keep=bool(request.session_id),
        grammar=grammar,
    )
    return Asked(generate, plan, tail)


async def _tokenized(request: GenerateMessage, view: ModelView, known: Sequence[int]) -> Sequence[int]:
    if isinstance(request, inference_pb2.CompleteRequest) and request.WhichOneof("prompt") == "tokens":
        return checked_ids(request.tokens.ids, view.vocabulary)
    if request.ByteSize() <= INLINE_CHARS:
        return ids_of(request, view, known)
    return await asyncio.to_thread(ids_of, request, view, known)


async def _predicted(text: str, view: ModelView) -> list[int]:
    """The answer that the client expects, as tokens."""
    encode = view.vocabulary.encode
    short = len(text) <= INLINE_CHARS
    ids = encode(text, add_bos=False) if short else await asyncio.to_thread(encode, text, add_bos=False)
    return ids[: view.model.context_length]
