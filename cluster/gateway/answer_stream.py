"""An answer as every API tells it to its client: one generation, or several that the gateway makes one of."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Protocol

from cluster.gateway.tools.reader import Delta
from protos.gen import inference_pb2


class AnswerStream(Protocol):
    """Iterate deltas() once; the other fields fill as it goes, all of them by its end."""

    @property
    def id(self) -> str:
        """The answer's, known before it begins; feedback refers to it."""
        ...

    @property
    def created(self) -> int:
        """Unix seconds."""
        ...

    @property
    def model(self) -> str:
        """The model that answers; as asked before that is known."""
        ...

    @property
    def revision(self) -> str:
        """Of the weights; empty before that is known."""
        ...

    @property
    def failovers(self) -> int:
        """How often the stream went on at another replica."""
        ...

    @property
    def usage(self) -> inference_pb2.Usage:
        """Tokens read and written so far."""
        ...

    @property
    def route(self) -> inference_pb2.Route:
        """Where it went and why."""
        ...

    @property
    def kv(self) -> inference_pb2.Kv:
        """How its KV is held; empty before the replica says so."""
        ...

    @property
    def text(self) -> Sequence[str]:
        """The deltas so far that are text."""
        ...

    @property
    def tool_calls(self) -> Sequence[inference_pb2.ToolCall]:
        """Calls of the client's tools, as far as they are certain."""
        ...

    @property
    def tool_runs(self) -> Sequence[inference_pb2.ToolRun]:
        """Calls that the gateway ran for it."""
        ...

    @property
    def retrieval(self) -> inference_pb2.Retrieval | None:
        """What was retrieved for it, where that was asked for and done."""
        ...

    @property
    def tells_logprobs(self) -> bool:
        """Whether log-probabilities were asked for."""
        ...

    @property
    def logprobs(self) -> Sequence[inference_pb2.TokenLogprob]:
        """Where asked for: of the tokens whose text begins in the deltas so far; of all of them by the end."""
        ...

    @property
    def echoed_tokens(self) -> int:
        """Entries of logprobs that are the echoed prompt's."""
        ...

    @property
    def finish(self) -> inference_pb2.FinishReason:
        """Why it ended; FINISH_UNSPECIFIED before."""
        ...

    @property
    def stop_text(self) -> str:
        """The stop string that ended it; empty where none did."""
        ...

    @property
    def reflection(self) -> inference_pb2.Reflection | None:
        """How it was checked, where that was asked for."""
        ...

    @property
    def session_id(self) -> str:
        """The session that it belongs to; empty where it belongs to none."""
        ...

    @property
    def session_turns(self) -> int:
        """Turns of the session that stand before the request's messages."""
        ...

    @property
    def stored_turns(self) -> int:
        """Turns that the session had; 0 where it was new."""
        ...

    @property
    def turns(self) -> int:
        """Turns that the session has with this answer."""
        ...

    note: Callable[[], str]
    """What its session is to keep of it beside the turns (memory's Session.response); asked when it has ended."""

    def deltas(self) -> AsyncGenerator[Delta, None]:
        """What becomes certain, never empty. Closing it cancels the rest. Raises RussetError."""
        ...

    async def answer(self) -> str:
        """Wait for its end; the whole text."""
        ...


def summed(usages: Iterable[inference_pb2.Usage]) -> inference_pb2.Usage:
    """The usage of an answer that several generations made: each count over all of them."""
    total = inference_pb2.Usage()
    for usage in usages:
        for field, count in usage.ListFields():
            setattr(total, field.name, getattr(total, field.name) + count)
    return total
