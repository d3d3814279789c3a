"""POST /v1/router/explain: how a request would be routed now, and why; nothing runs."""

import time
from collections.abc import Callable
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.routing import Route

from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Handler, Reply
from cluster.gateway.bodies import Body, parse
from cluster.gateway.limits import MAX_SESSION_CHARS
from cluster.gateway.requests import Caller, Requests
from protos.gen import inference_pb2, router_pb2


class ExplainBody(Body):
    """Of POST /v1/router/explain."""

    text: str
    model: str = Field(default="auto", max_length=MAX_SESSION_CHARS)
    session_id: str = Field(default="", max_length=MAX_SESSION_CHARS)


class Explain:
    """The handler."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def routes(self, route: Callable[[str, str, Handler], Route]) -> list[Route]:
        """Where they are reached; `route` makes one of path, method and handler."""
        return [
            route("/v1/router/explain", "POST", self.explain),
        ]

    async def explain(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/router/explain."""
        asked = explain_request(parse(body, ExplainBody))
        began = time.perf_counter()
        grounding = self._requests.recall.begin(asked, caller)
        reply = await self._requests.begin(asked, caller, grounding, probe=True).explained()
        return Reply(dumps(explanation_of(reply, (time.perf_counter() - began) * 1e3)))


def explain_request(asked: ExplainBody) -> inference_pb2.ChatRequest:
    """The chat that is asked about: the text as its last user turn."""
    message = inference_pb2.Message(role="user", content=asked.text)
    return inference_pb2.ChatRequest(model=asked.model, session_id=asked.session_id, messages=[message])


def explanation_of(reply: router_pb2.RouteReply, took_ms: float) -> dict[str, Any]:
    """A decision as it is told. `took_ms`: with making the prompt."""
    return {
        "object": "router.explanation",
        "model": reply.model,
        "alias": reply.alias or None,
        "confidence": reply.confidence,
        "explanation": list(reply.explanation),
        "candidates": [
            {
                "replica": each.replica_id,
                "score": each.score,
                "terms": [{"name": name, "value": value} for name, value in sorted(each.terms.items())],
            }
            for each in reply.candidates
        ],
        "choice": _choice(reply.choice) if reply.HasField("choice") else None,
        "took_ms": took_ms,
    }


def _choice(choice: router_pb2.ModelChoice) -> dict[str, Any]:
    return {
        "router": choice.router or "cost",
        "confidence": choice.confidence,
        "shares": [{"label": each.label, "probability": each.confidence} for each in choice.shares],
        "temperature": choice.temperature if choice.HasField("temperature") else None,
        "top_p": choice.top_p if choice.HasField("top_p") else None,
        "context": choice.context or None,
        "neighbours": [
            {"text": near.text, "label": near.label, "similarity": near.similarity} for near in choice.neighbours
        ],
    }
