"""A request as tokens of the model that answers it."""

import secrets
from collections.abc import Sequence

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary
from cluster.gateway.catalog import ModelView
from cluster.gateway.tools.check import callable_tools
from cluster.gateway.tools.template import Rendered, plain
from protos.gen import inference_pb2

GenerateMessage = inference_pb2.ChatRequest | inference_pb2.CompleteRequest


def param_of(request: GenerateMessage) -> str:
    """What a client calls the prompt."""
    return "messages" if isinstance(request, inference_pb2.ChatRequest) else "prompt"


def ids_of(request: GenerateMessage, view: ModelView, known: Sequence[int] = ()) -> list[int]:
    """Render and tokenize. `known`: the conversation so far as the model read and wrote it, see `continued`.

    A text that begins with the beginning-of-text token brings it; it is not put there twice.
    """
    vocabulary = view.vocabulary
    if isinstance(request, inference_pb2.ChatRequest):
        text = view.template.render(*_as_rendered(request, view))
        ids = continued(vocabulary, known, text)
    else:
        ids = vocabulary.encode(request.text)
        if vocabulary.bos_id is not None and ids[:2] == [vocabulary.bos_id] * 2:
            del ids[0]
    if not ids:
        raise InvalidArgument("the prompt has no tokens; accepted is at least one", param=param_of(request))
    return ids


def continued(vocabulary: Vocabulary, known: Sequence[int], text: str) -> list[int]:
    """Token ids of a rendered conversation, beginning with those of `known` that spell the beginning of `text`.

    A model may cut its answer into other tokens than the tokenizer would: read back by the tokenizer, the conversation
    would no longer find its KV. Ids are taken over up to a place where `text` goes on with a special token, since what
    is on either side of one never becomes a token together.

        known  |------ prompt ------|---- answer ----|
        text   |------ prompt ------|---- answer ----|<|im_end|>------ next turn ------|
                                     taken over      ^ tokenized from here
    """
    if not known:
        return vocabulary.encode(text, add_bos=False)
    spelled = text.encode()
    taken, at, offset = 0, 0, 0
    for place, token in enumerate(known):
        piece = vocabulary.token_bytes(token)
        if not spelled.startswith(piece, offset):
            break
        if token in vocabulary.special_ids:
            taken, at = place, offset
        offset += len(piece)
    else:
        # An answer may have ended within a character: then its text goes on otherwise.
        rest = vocabulary.encode(spelled[offset:].decode("utf-8", "replace"), add_bos=False)
        if rest and rest[0] in vocabulary.special_ids:
            return [*known, *rest]
    return [*known[:taken], *vocabulary.encode(spelled[at:].decode(), add_bos=False)]


def checked_ids(ids: Sequence[int], vocabulary: Vocabulary) -> Sequence[int]:
    """Ids that a client sent, where the model has them all."""
    if not ids:
        raise InvalidArgument("prompt has no tokens; accepted is at least one", param="prompt")
    if max(ids) >= vocabulary.size:
        raise InvalidArgument(
            f"prompt has the token id {max(ids)}; accepted are ids below {vocabulary.size}", param="prompt"
        )
    return ids


def every_field(sampling: inference_pb2.Sampling) -> inference_pb2.Sampling:
    """The sampling with inference.proto's defaults filled in, and a seed drawn where there is none."""
    full = inference_pb2.Sampling(
        temperature=1,
        top_p=1,
        top_k=0,
        min_p=0,
        repetition_penalty=1,
        presence_penalty=0,
        frequency_penalty=0,
        seed=secrets.randbits(64),
    )
    full.MergeFrom(sampling)
    return full


def _as_rendered(request: inference_pb2.ChatRequest, view: ModelView) -> tuple[list[Rendered], list[Rendered] | None]:
    """Messages and tools as the model's template is given them."""
    # Which of them may be called is no matter of the prompt, whose beginning many requests share.
    tools = request.tools if callable_tools(request) else ()
    if tools or any(message.tool_calls or message.tool_call_id for message in request.messages):
        return view.tool_use.messages(request.messages, tools)
    return [plain(message) for message in request.messages], None
