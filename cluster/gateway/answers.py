"""Answers in OpenAI's shapes: whole, or as server-sent events built from bytes prepared once a stream."""

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np
from pydantic_core import to_json

from cluster.gateway.answer_stream import AnswerStream
from cluster.gateway.choices import Choices
from cluster.gateway.documents.shapes import retrieval_body
from cluster.gateway.logprobs import chat_logprobs, completion_logprobs
from cluster.gateway.requests import FINISH_NAMES
from cluster.gateway.tools.bodies import calls_body, delta_body
from cluster.gateway.tools.reader import Delta
from protos.gen import inference_pb2

DONE = b"data: [DONE]\n\n"
MARK = "\u0001"
"""Stands for the text in a chunk's template; JSON writes it as an escape that no other value contains."""


class Shape:
    """How one endpoint writes its answers."""

    def __init__(self, whole: str, chunk: str, *, chat: bool) -> None:
        self._whole, self._chunk, self._chat = whole, chunk, chat

    def answer(self, choices: Choices) -> bytes:
        """The answer in one piece, once the choices have ended."""
        first = choices.first
        body = self._head(first, self._whole)
        body["choices"] = [self._choice(index, each, choices) for index, each in enumerate(choices.generations)]
        return dumps(body | {"usage": usage(choices.usage), "russet": extension(first)})

    def _choice(self, index: int, generation: AnswerStream, choices: Choices) -> dict[str, Any]:
        text = "".join(generation.text)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if generation.tool_calls:
            message |= {"content": text or None, "tool_calls": calls_body(generation.tool_calls)}
        content: dict[str, Any] = {"message": message}
        told = self._told(generation, 0) if choices.tells_logprobs else None
        choice = {"index": index, **(content if self._chat else {"text": text}), "logprobs": told}
        return choice | {"finish_reason": FINISH_NAMES[generation.finish]}

    async def choice_events(self, choices: Choices, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """Several answers as they come, each event of one of them. The first item is their start, with the route."""
        head: dict[str, Any] = {}
        told = [0] * len(choices.generations)
        async with aclosing(choices.pieces()) as pieces:
            async for index, delta, until in pieces:
                generation = choices.generations[index]
                event = b""
                if not head:
                    head = self._head(generation, self._chunk) | {"id": choices.first.id}
                    head |= {"usage": None} if include_usage else {}
                    opening = head | {"russet": extension(generation)}
                    for each in range(len(told)):
                        event += self._event(opening, {"role": "assistant", "content": ""}, "", index=each)
                ended = delta is None
                logprobs = self._told(generation, told[index], until) if until > told[index] or not ended else None
                told[index] = until
                finish = FINISH_NAMES[generation.finish] if ended else None
                content, text = ({}, "") if delta is None else _content(delta)
                last = head | ran(generation) if ended else head
                yield event + self._event(last, content, text, finish, logprobs, index)
        ending = DONE
        if include_usage:
            last = head | {"choices": [], "usage": usage(choices.usage), "russet": extension(choices.first)}
            ending = b"data: " + dumps(last) + b"\n\n" + DONE
        yield ending

    async def events(self, generation: AnswerStream, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """The answer as it comes. The first item is the text's beginning, with the route."""
        async with aclosing(generation.deltas()) as deltas:
            first = await anext(deltas, "")
            head = self._head(generation, self._chunk)
            if include_usage:
                head["usage"] = None
            beginning = {"role": "assistant", "content": "" if isinstance(first, str) else None}
            opening = self._event(head | {"russet": extension(generation)}, beginning, "")
            before, after = self._event(head, {"content": MARK}, MARK).split(json.dumps(MARK).encode())
            told = 0

            def chunk(delta: Delta) -> bytes:
                nonlocal told
                if isinstance(delta, str) and not generation.tells_logprobs:
                    return before + encode_basestring_ascii(delta).encode() + after
                logprobs = self._told(generation, told)
                told = len(generation.logprobs)
                return self._event(head, *_content(delta), logprobs=logprobs)

            yield opening + (chunk(first) if first else b"")
            async for delta in deltas:
                yield chunk(delta)
        # Tokens at the end that have no text come with the finish.
        rest = self._told(generation, told) if told < len(generation.logprobs) else None
        ending = self._event(head | ran(generation), {}, "", FINISH_NAMES[generation.finish], rest)
        if include_usage:
            last = head | {"choices": [], "usage": usage(generation.usage), "russet": extension(generation)}
            ending += b"data: " + dumps(last) + b"\n\n"
        yield ending + DONE

    def _head(self, generation: AnswerStream, kind: str) -> dict[str, Any]:
        return {
            "id": generation.id,
            "object": kind,
            "created": generation.created,
            "model": generation.model,
            "system_fingerprint": f"fp_{generation.revision[:12]}",
        }

    def _told(self, generation: AnswerStream, start: int, end: int | None = None) -> dict[str, Any] | None:
        """Log-probabilities from the start-th token to the end-th; None where none were asked for."""
        if not generation.tells_logprobs:
            return None
        return (chat_logprobs if self._chat else completion_logprobs)(generation.logprobs[start:end])

    def _event(
        self,
        head: dict[str, Any],
        delta: dict[str, Any],
        text: str,
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
        index: int = 0,
    ) -> bytes:
        content: dict[str, Any] = {"delta": delta} if self._chat else {"text": text}
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}
        return b"data: " + dumps(head | {"choices": [choice]}) + b"\n\n"


def _content(delta: Delta) -> tuple[dict[str, Any], str]:
    """What a chunk says, in a chat and in a completion."""
    if isinstance(delta, str):
        return {"content": delta}, delta
    return {"tool_calls": [delta_body(delta)]}, ""


CHAT = Shape("chat.completion", "chat.completion.chunk", chat=True)
COMPLETION = Shape("text_completion", "text_completion", chat=False)


def usage(counts: inference_pb2.Usage) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": counts.accepted_tokens,
            "rejected_prediction_tokens": counts.drafted_tokens - counts.accepted_tokens,
        },
    }


def extension(generation: AnswerStream) -> dict[str, Any]:
    """Russet's own part of an answer: where the request went and why, its KV, its session."""
    route = generation.route
    decision = {
        "model": route.model,
        "replica": route.replica,
        "confidence": round(route.confidence, 4),
        "explanation": list(route.explanation),
    }
    if route.alias:
        decision["alias"] = route.alias
    kv = {"format": generation.kv.format, "restored_tokens": generation.kv.restored_tokens}
    body: dict[str, Any] = {"route": decision, "failovers": generation.failovers, "kv": kv}
    if generation.tool_runs:
        body["tool_runs"] = [_run(run) for run in generation.tool_runs]
    if generation.retrieval is not None:
        body["retrieval"] = retrieval_body(generation.retrieval)
    if generation.reflection is not None:
        body["reflect"] = _reflection(generation.reflection)
    if generation.session_id:
        body["session"] = {"id": generation.session_id, "turns": generation.session_turns}
    return body


def ran(generation: AnswerStream) -> dict[str, Any]:
    """What a stream's last chunk says of what was run for it."""
    return {"russet": extension(generation)} if generation.tool_runs else {}


def _run(run: inference_pb2.ToolRun) -> dict[str, Any]:
    return {"name": run.name, "ms": round(run.ms, 3), "ok": run.ok, "cached": run.cached or None}


def _reflection(told: inference_pb2.Reflection) -> dict[str, Any]:
    attempts = [
        {
            "id": attempt.id,
            "strategy": attempt.strategy,
            "met": round(attempt.met, 4),
            "problems": list(attempt.problems),
        }
        for attempt in told.attempts
    ]
    return {
        "passed": told.passed,
        "confidence": round(told.confidence, 4),
        "chosen": told.chosen,
        "attempts": attempts,
        "stopped": told.stopped or None,
    }


def session_row(session: inference_pb2.Session) -> dict[str, Any]:
    """One row of /v1/russet/sessions. Times in Unix seconds, as OpenAI's are."""
    return {
        "id": session.session_id,
        "object": "session",
        "created": session.created_ms / 1e3,
        "last_active": session.last_active_ms / 1e3,
        "model": session.model,
        "replica": session.replica,
        "turns": session.turns,
        "kv": {"tokens": session.kv_tokens, "format": session.kv_format, "tier": session.kv_tier},
    }


def session_page(session: inference_pb2.Session) -> dict[str, Any]:
    """One of them with its messages."""
    return session_row(session) | {"messages": [_message(message) for message in session.messages]}


def _message(message: inference_pb2.Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        body["name"] = message.name
    if message.tool_calls:
        body |= {"content": message.content or None, "tool_calls": calls_body(message.tool_calls)}
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    return body


def embeddings(reply: inference_pb2.EmbedReply, encoding: str) -> bytes:
    """The answer of /v1/embeddings; base64 is of little-endian float32."""
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(vector.values, encoding)}
        for index, vector in enumerate(reply.vectors)
    ]
    counts = {"prompt_tokens": reply.prompt_tokens, "total_tokens": reply.prompt_tokens}
    return dumps({"object": "list", "model": reply.model, "data": data, "usage": counts})


def _vector(values: Sequence[float], encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()
    return list(values)


def model_row(card: inference_pb2.ModelCard) -> dict[str, Any]:
    """One row of /v1/models."""
    more: dict[str, Any] = {"kind": card.kind, "context_length": card.context_length, "replicas": card.replicas}
    if card.models:
        more["models"] = dict(card.models)
    return {"id": card.id, "object": "model", "created": card.created_s, "owned_by": "russet", "russet": more}


def dumps(value: Any) -> bytes:
    """JSON without spaces."""
    return to_json(value)
