"""What may be asked at all, and what may be asked of one model: refusals by name, before a replica is asked."""

from collections.abc import Sequence

from actors.base.errors import InvalidArgument
from cluster.gateway.catalog import ModelView
from cluster.gateway.errors import ContextTooLong
from cluster.gateway.healing import check_healing
from cluster.gateway.limits import ROLES, check_decoding, check_kv_format, check_session
from cluster.gateway.prompt import GenerateMessage, param_of
from cluster.gateway.recall.asked import check_recall
from cluster.gateway.tools.check import check_calls, check_tools
from protos.gen import inference_pb2


def check_request(request: GenerateMessage) -> None:
    """Refuse what no model can do. Raises InvalidArgument naming the parameter."""
    check_decoding(request.decoding, echo=echoes(request))
    check_session(request.session_id)
    check_kv_format(request.kv_format, "kv_format")
    if isinstance(request, inference_pb2.ChatRequest):
        _check_messages(request.messages)
        check_tools(request)
        check_recall(request)
    elif request.WhichOneof("prompt") is None:
        raise InvalidArgument("prompt is missing; accepted is a text or token ids", param="prompt")
    elif request.token_healing:
        check_healing(request)
    if len(request.model) > 256:
        raise InvalidArgument(f"model has {len(request.model)} characters; accepted are up to 256", param="model")


def echoes(request: GenerateMessage) -> bool:
    """Whether the answer begins with the prompt."""
    return isinstance(request, inference_pb2.CompleteRequest) and request.echo


def only_echoes(request: GenerateMessage) -> bool:
    """Whether no new token is wanted."""
    return echoes(request) and request.decoding.HasField("max_tokens") and not request.decoding.max_tokens


def most_tokens(request: GenerateMessage, ids: Sequence[int], view: ModelView, model: str, default: int | None) -> int:
    """New tokens that a replica is asked for: at least 1, also where nobody is to see it.

    `ids`: the prompt. `default`: where the request does not say; None is what the context holds. Raises InvalidArgument
    where prompt and answer do not fit the model, or ids are not of its vocabulary.
    """
    decoding, context = request.decoding, view.model.context_length
    asked = decoding.max_tokens if decoding.HasField("max_tokens") else 0
    if len(ids) + max(asked, 1) > context:
        raise ContextTooLong(
            f"the prompt has {len(ids)} tokens and {asked or 'at least 1'} more were asked for; "
            f"the context of {model} holds {context}",
            param="max_tokens" if asked and len(ids) < context else param_of(request),
        )
    room = context - len(ids)
    most = 1 if only_echoes(request) else asked or min(default or room, room)
    if decoding.min_tokens > most:
        raise InvalidArgument(
            f"min_tokens is {decoding.min_tokens}; accepted is up to {most}, what the answer may have",
            param="min_tokens",
        )
    for name, tokens in (("logit_bias", decoding.sampling.logit_bias), ("stop_token_ids", decoding.stop_token_ids)):
        outside = [token for token in tokens if token >= view.vocabulary.size]
        if outside:
            raise InvalidArgument(
                f"{name} names token {outside[0]}; accepted are ids below {view.vocabulary.size}", param=name
            )
    return most


def _check_messages(messages: Sequence[inference_pb2.Message]) -> None:
    if not messages:
        raise InvalidArgument("messages is empty; accepted is at least one message", param="messages")
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidArgument(
                f"messages[{index}].role is {message.role[:40]!r}; accepted are {', '.join(ROLES)}",
                param=f"messages[{index}].role",
            )
        check_calls(message, f"messages[{index}]")
