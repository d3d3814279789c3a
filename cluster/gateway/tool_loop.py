"""A chat whose calls of server-side tools are run here, and their results read by the model, until it answers.

    generation ── calls ──> run ── results ──> generation ── calls ──> ... ──> generation ── text ──> the answer

Every generation is one as any other: routed, recorded, and a turn of the session where there is one. To the client
they are one answer: its text is all their text, its usage all their usage. A call of a tool that the client declared
ends it, as ever.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext

from cluster.gateway.answer_stream import summed
from cluster.gateway.caller import Caller
from cluster.gateway.conversation import Within
from cluster.gateway.recall.grounding import Grounding
from cluster.gateway.requests import KINDS, Generation, Requests
from cluster.gateway.server_tools import check_asked, chosen, first_request, run_of
from cluster.gateway.tools.reader import Delta
from cluster.tool_runtime.registry import ServerTool
from cluster.tool_runtime.runtime import Allowance, Call, Run
from protos.gen import inference_pb2


class ToolLoop:
    """One request's answer, read as a Generation is. Iterate deltas() once; the other fields fill as it goes."""

    def __init__(
        self, requests: Requests, request: inference_pb2.ChatRequest, caller: Caller, grounding: Grounding
    ) -> None:
        """Raises InvalidArgument naming the parameter; which tools there are is not asked yet."""
        check_asked(request, requests.tools.config)
        self._requests = requests
        self._asked = request
        self._caller = caller
        self._grounding = grounding
        self._generations: list[Generation] = []
        self._out_of_tokens = False
        self.id = f"{KINDS[True][0]}-{secrets.token_hex(12)}"
        """Also the first generation's."""
        self.created = int(time.time())
        self.text: list[str] = []
        """The deltas so far that are text."""
        self.logprobs: list[inference_pb2.TokenLogprob] = []
        """As a Generation's, of all generations one after the other."""
        self.tool_calls: list[inference_pb2.ToolCall] = []
        """Calls of tools that the client declared, which end the answer; known at its end."""
        self.tool_runs: list[inference_pb2.ToolRun] = []
        """What was run, in order."""
        self.reflection: inference_pb2.Reflection | None = None
        """It is not looked back at."""
        self.echoed_tokens = 0
        self.note: Callable[[], str] = str
        """As a Generation's; what the last generation keeps, stays."""

    @property
    def _now(self) -> Generation | None:
        return self._generations[-1] if self._generations else None

    @property
    def model(self) -> str:
        """The model that answers; as asked before that is known."""
        return self._now.model if self._now else self._asked.model

    @property
    def revision(self) -> str:
        """Of the weights; empty before that is known."""
        return self._now.revision if self._now else ""

    @property
    def failovers(self) -> int:
        """How often a stream went on at another replica."""
        return sum(each.failovers for each in self._generations)

    @property
    def usage(self) -> inference_pb2.Usage:
        """Of all generations: a prompt that was read in each is counted in each."""
        return summed(each.usage for each in self._generations)

    @property
    def retrieval(self) -> inference_pb2.Retrieval | None:
        """What was retrieved for it, where that was asked for."""
        return self._grounding.told

    @property
    def tells_logprobs(self) -> bool:
        """Whether log-probabilities were asked for."""
        return self._asked.decoding.HasField("logprobs")

    @property
    def session_id(self) -> str:
        """The session that it belongs to; empty where it belongs to none."""
        return self._asked.session_id

    @property
    def session_turns(self) -> int:
        """Turns of the session that stand before the request's messages."""
        return self._generations[0].session_turns if self._generations else 0

    @property
    def stored_turns(self) -> int:
        """Turns that the session had; 0 where it was new."""
        return self._generations[0].stored_turns if self._generations else 0

    @property
    def turns(self) -> int:
        """Turns that the session has with this answer, those of calls and results included."""
        return self._now.turns if self._now else 0

    @property
    def kv(self) -> inference_pb2.Kv:
        """How the last generation's KV is held."""
        return self._now.kv if self._now else inference_pb2.Kv()

    @property
    def route(self) -> inference_pb2.Route:
        """Where the last generation went and why."""
        return self._now.route if self._now else inference_pb2.Route(model=self.model)

    @property
    def finish(self) -> inference_pb2.FinishReason:
        """Why it ended; FINISH_UNSPECIFIED before."""
        if self._out_of_tokens:
            return inference_pb2.FINISH_LENGTH
        return self._now.finish if self._now else inference_pb2.FINISH_UNSPECIFIED

    @property
    def stop_text(self) -> str:
        """The stop string that ended it; empty where none did."""
        return self._now.stop_text if self._now else ""

    async def answer(self) -> str:
        """The whole text."""
        async with aclosing(self.deltas()) as deltas:
            async for _ in deltas:
                pass
        return "".join(self.text)

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """What becomes certain of text, and of calls of the client's own tools. Closing it cancels what runs.

        Raises as Generation.deltas, and InvalidArgument or Unavailable where a tool that was asked for is not there.
        """
        runtime, asked = self._requests.tools, self._asked
        tools = chosen(asked, await runtime.registry.catalogue())
        rounds = asked.server_tools.max_rounds or runtime.config.max_rounds
        allowance = Allowance(runtime.config.request_timeout_s)
        one_by_one = asked.server_tools.one_by_one
        request, within = first_request(asked, tools), Within(tools.keys())
        async with self._turn():
            for left in range(rounds, -1, -1):
                generation = self._begin(request, within)
                async with aclosing(self._told(generation, tools)) as deltas:
                    async for delta in deltas:
                        yield delta
                calls = generation.tool_calls
                if within.dropped(calls):
                    self.tool_calls = list(within.kept(calls))
                    return
                if generation.finish != inference_pb2.FINISH_TOOL_CALLS or not left:
                    return
                left_tokens = asked.decoding.max_tokens - self.usage.completion_tokens
                if asked.decoding.HasField("max_tokens") and left_tokens <= 0:
                    self._out_of_tokens = True
                    return
                todo = [Call(call.id, tools[call.name], call.arguments) for call in calls]
                runs = await runtime.run(todo, self._caller.tenant, allowance, parallel=not one_by_one)
                self.tool_runs += [run_of(run) for run in runs]
                request = self._next(request, generation, runs, last=left == 1)
                if asked.decoding.HasField("max_tokens"):
                    request.decoding.max_tokens = left_tokens

    def _begin(self, request: inference_pb2.ChatRequest, within: Within) -> Generation:
        generation = self._requests.begin(request, self._caller, self._grounding, within=within)
        if not self._generations:
            generation.id = self.id
        self._generations.append(generation)
        generation.note = lambda: self.note()
        return generation

    def _turn(self) -> AbstractAsyncContextManager[None]:
        """The session's, held over all generations: no other request may come between calls and their results."""
        if not self._asked.session_id:
            return nullcontext()
        return self._requests.sessions.turn(self._caller.tenant, self._asked.session_id)

    async def _told(self, generation: Generation, tools: Mapping[str, ServerTool]) -> AsyncGenerator[Delta, None]:
        """A generation's deltas without the calls that are run here."""
        places: dict[int, int] = {}
        before = sum(map(len, self.text))
        told = 0

        def tell() -> None:
            nonlocal told
            for entry in generation.logprobs[told:]:
                self.logprobs.append(entry)
                self.logprobs[-1].text_offset += before
            told = len(generation.logprobs)

        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                tell()
                if isinstance(delta, str):
                    self.text.append(delta)
                    yield delta
                    continue
                if delta.name and delta.name not in tools:
                    places[delta.index] = len(places)
                if (place := places.get(delta.index)) is not None:
                    delta.index = place
                    yield delta
        tell()

    def _next(
        self,
        request: inference_pb2.ChatRequest,
        generation: Generation,
        runs: Sequence[Run],
        *,
        last: bool,
    ) -> inference_pb2.ChatRequest:
        """The request that goes on with the results of a generation's calls. last: it may call nothing more."""
        following = inference_pb2.ChatRequest()
        following.CopyFrom(request)
        if following.session_id:
            del following.messages[:]  # The session has them, and the calls.
        else:
            text = "".join(generation.text)
            following.messages.add(role="assistant", content=text, tool_calls=generation.tool_calls)
        for run in runs:
            following.messages.add(role="tool", content=run.text, tool_call_id=run.call.id, name=run.call.tool.name)
        if last:
            choice = inference_pb2.ToolChoice(mode=inference_pb2.ToolChoice.TOOL_CHOICE_NONE)
            following.tool_choice.CopyFrom(choice)
        elif any(run.ok for run in self.tool_runs):
            following.ClearField("tool_choice")  # What had to be called was; else it would be called for ever.
        return following
