"""A chat request's place in its session: what came before it, and the turn that it becomes."""

import contextlib
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass

from actors.base.errors import DeadlineExceeded, Unavailable
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.recall.grounding import Grounding
from cluster.gateway.sessions import Sessions, message_of
from cluster.gateway.tools.check import check_results
from protos.gen import inference_pb2, memory_pb2


def follow(
    turns: Sequence[memory_pb2.Turn], sent: Sequence[inference_pb2.Message]
) -> tuple[list[inference_pb2.Message], int]:
    """What the model reads where `sent` comes to a session with these turns, and how many of them it follows.

    Messages with an assistant's among them are a conversation that the client carries itself: read as it is. Others
    follow the turns; system messages that they begin with take the place of those that the turns begin with.
    """
    if _is_whole(sent):
        return list(sent), 0
    instructions = _instructions(sent)
    kept = [message_of(turn) for turn in (turns[_instructions(turns) :] if instructions else turns)]
    return [*sent[:instructions], *kept, *sent[instructions:]], len(kept)


def _is_whole(sent: Sequence[inference_pb2.Message]) -> bool:
    return any(message.role == "assistant" for message in sent)


def _instructions(messages: Sequence[memory_pb2.Turn] | Sequence[inference_pb2.Message]) -> int:
    """How many system messages they begin with."""
    others = (place for place, message in enumerate(messages) if message.role not in ("system", "developer"))
    return next(others, len(messages))


@dataclass(frozen=True)
class Within:
    """The answer that a generation is one of several of. Who makes it holds the session's turn."""

    run: Collection[str]
    """Tools whose calls are run between two generations."""

    def dropped(self, calls: Sequence[inference_pb2.ToolCall]) -> bool:
        """Whether calls of these tools are dropped: beside calls of the client's tools, with which the answer ends."""
        return any(call.name not in self.run for call in calls)

    def kept(self, calls: Sequence[inference_pb2.ToolCall]) -> Sequence[inference_pb2.ToolCall]:
        """Those of a generation's calls that get a result."""
        return [call for call in calls if call.name not in self.run] if self.dropped(calls) else calls


class Conversation:
    """A request and its session. Completions, and chats without a session, stand alone: nothing is read or kept."""

    def __init__(
        self, sessions: Sessions, tenant: str, sent: GenerateMessage, within: Within | None, grounding: Grounding
    ) -> None:
        self.grounding = grounding
        """What it is reminded of, which is not part of the session."""
        self._sessions = sessions
        self._tenant = tenant
        self._within = within
        self.request = sent
        """As sent; within `turn`, as the model reads it."""
        self.stored = memory_pb2.Session()
        """The session as it was; empty where there was none."""
        self.own_kv_format = not sent.kv_format
        """Whether the request leaves the form of its KV to the session."""
        self.turns = 0
        """Turns of it that the request's messages follow."""
        self.kept: memory_pb2.Session | None = None
        """The session with this answer, once it has ended."""
        self.retrieval_s = 0.0
        """How long it took to read the session and whatever else was retrieved for the request."""

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncGenerator[None, None]:
        """The time in which this request alone may continue its session; the answer is kept within.

        Raises Conflict where the requests before it take too long, Unavailable where the session cannot be read,
        and what Grounding.find does.
        """
        sent = self.request
        if not sent.session_id or not isinstance(sent, inference_pb2.ChatRequest):
            if isinstance(sent, inference_pb2.ChatRequest):
                check_results(sent.messages, len(sent.messages))
            await self._ground()
            yield
            return
        turn = contextlib.nullcontext() if self._within else self._sessions.turn(self._tenant, sent.session_id)
        async with turn:
            self.request = await self._continued(sent)
            check_results(self.request.messages, len(sent.messages))
            await self._ground()
            yield

    async def _ground(self) -> None:
        self.retrieval_s += await self.grounding.find(self.request)

    async def _continued(self, sent: inference_pb2.ChatRequest) -> inference_pb2.ChatRequest:
        began = time.monotonic()
        try:
            stored = await self._sessions.read(self._tenant, sent.session_id)
        except (Unavailable, DeadlineExceeded) as error:
            if _is_whole(sent.messages):
                return sent  # Memory would only have known where its KV is.
            raise Unavailable(
                f"session {sent.session_id[:80]!r} cannot be read now: {error.message}", retry_after_s=1.0
            ) from error
        self.retrieval_s += time.monotonic() - began
        if stored is None:
            return sent
        self.stored = stored
        messages, self.turns = follow(stored.turns, sent.messages)
        request = inference_pb2.ChatRequest()
        request.CopyFrom(sent)
        del request.messages[:]
        request.messages.extend(messages)
        request.kv_format = sent.kv_format or stored.kv.format
        return request

    def keep(
        self,
        text: str,
        calls: Sequence[inference_pb2.ToolCall],
        token_ids: Sequence[int],
        route: inference_pb2.Route,
        kv_format: str,
        noted: str,
    ) -> None:
        """The answer ended: it becomes a turn before the client sees its end. `token_ids`: prompt and answer."""
        request = self.request
        if not request.session_id or not isinstance(request, inference_pb2.ChatRequest):
            return
        calls = self._within.kept(calls) if self._within else calls
        turns = [_turn(message) for message in request.messages]
        turns.append(memory_pb2.Turn(role="assistant", content=text, tool_calls=calls))
        now_ms = int(time.time() * 1000)
        self.kept = memory_pb2.Session(
            session_id=request.session_id,
            tenant=self._tenant,
            turns=turns,
            turn_count=len(turns),
            token_ids=token_ids,
            model=route.model,
            replica_id=route.replica,
            created_ms=self.stored.created_ms or now_ms,
            last_active_ms=now_ms,
            metadata=self.stored.metadata,
            response=noted,
            kv=memory_pb2.SessionKv(tokens=len(token_ids), format=kv_format, tier="memory"),
        )
        self._sessions.keep(self.kept)


def _turn(message: inference_pb2.Message) -> memory_pb2.Turn:
    name = message.name if message.HasField("name") else None
    return memory_pb2.Turn(
        role=message.role,
        content=message.content,
        name=name,
        tool_calls=message.tool_calls,
        tool_call_id=message.tool_call_id,
    )
