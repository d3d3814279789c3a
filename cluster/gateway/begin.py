"""Which answer a request gets: one generation, or several that are told as one."""

import secrets

from cluster.gateway.answer_stream import AnswerStream
from cluster.gateway.caller import Caller
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.recall.grounding import Grounding
from cluster.gateway.reflect.reflection import Reflection
from cluster.gateway.requests import Requests
from cluster.gateway.tool_loop import ToolLoop
from protos.gen import inference_pb2


def begin(
    requests: Requests, request: GenerateMessage, caller: Caller, grounding: Grounding | None = None
) -> AnswerStream:
    """Validate a request of any API. Raises InvalidArgument naming the parameter; nothing is asked of any actor yet.

    grounding: that of the answer which this is a choice of; by default its own.
    """
    grounding = grounding or requests.recall.begin(request, caller)
    keep_together(request)
    if isinstance(request, inference_pb2.ChatRequest) and request.HasField("reflect"):
        return Reflection(requests, request, caller, grounding)
    if isinstance(request, inference_pb2.ChatRequest) and request.HasField("server_tools"):
        return ToolLoop(requests, request, caller, grounding)
    return requests.begin(request, caller, grounding)


def keep_together(request: GenerateMessage) -> None:
    """Have all generations of a request's answer come from one model, where its name is split between several."""
    if not request.session_id and not request.route_key:
        request.route_key = secrets.token_hex(8)
