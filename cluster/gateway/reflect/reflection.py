"""An answer that is checked before it is given: generations, one after the other, told as one.

    generate -> judge -> passed: the answer
                      -> else, while there are attempts and time: again, told what was wrong -> ...
                      -> else: the one that met most

Each attempt is a request like any other, with a witness entry of its own; nothing of an attempt is told before it was
chosen. See strategy for what the next attempt does differently.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from actors.base.errors import DeadlineExceeded, RussetError
from cluster.gateway.answer_stream import summed
from cluster.gateway.caller import Caller
from cluster.gateway.finished import Attempt
from cluster.gateway.recall.grounding import Grounding
from cluster.gateway.records import question_of
from cluster.gateway.reflect.asked import ATTEMPTS, DEADLINE_MS, check_readable, check_reflect
from cluster.gateway.reflect.assertions import Judgement, asks_quality, asserted, demanded, judged
from cluster.gateway.reflect.constraint import WEAKENED, candidates, weakened
from cluster.gateway.reflect.strategy import Strategy, attempt_request, best, confidence, next_strategy
from cluster.gateway.requests import Generation, Requests
from protos.gen import inference_pb2, memory_pb2


class Reflection:
    """One request's answer, read as a Generation is. Iterate deltas() once; the other fields hold at its end."""

    def __init__(
        self, requests: Requests, request: inference_pb2.ChatRequest, caller: Caller, grounding: Grounding
    ) -> None:
        """Raises InvalidArgument naming the parameter; nothing is asked of any actor yet."""
        check_reflect(request)
        self._requests = requests
        self._asked = request
        self._caller = caller
        self._grounding = grounding
        self._allowed = request.reflect.attempts or ATTEMPTS
        self._ends_s = time.monotonic() + (request.reflect.deadline_ms or DEADLINE_MS) / 1e3
        self._attempts: list[Generation] = []
        self._strategies: list[Strategy] = []
        self._judgements: list[Judgement] = []
        self._qualities: list[float | str] = []
        self._enforceable: inference_pb2.Grammar | None = None
        self._begin(Strategy.PLAIN)
        self.id = self._attempts[0].id
        """Also the first attempt's; a rating of it goes to the attempt that is the answer."""
        self.created = self._attempts[0].created
        self.echoed_tokens = 0
        self.reflection: inference_pb2.Reflection | None = None
        self.note: Callable[[], str] = str
        """Asked by nobody: it belongs to no session."""

    @property
    def _chosen(self) -> Generation:
        """The answer; the first attempt before that is known."""
        return self._attempts[self.reflection.chosen if self.reflection else 0]

    @property
    def model(self) -> str:
        """The model that answers; as asked before that is known."""
        return self._chosen.model

    @property
    def revision(self) -> str:
        """Of the weights; empty before that is known."""
        return self._chosen.revision

    @property
    def failovers(self) -> int:
        """How often a stream went on at another replica."""
        return sum(each.failovers for each in self._attempts)

    @property
    def usage(self) -> inference_pb2.Usage:
        """Of all attempts: a prompt that was read in each is counted in each."""
        return summed(each.usage for each in self._attempts)

    @property
    def retrieval(self) -> inference_pb2.Retrieval | None:
        """What was retrieved for all attempts, where that was asked for."""
        return self._grounding.told

    @property
    def tells_logprobs(self) -> bool:
        """Whether log-probabilities were asked for."""
        return self._asked.decoding.HasField("logprobs")

    @property
    def text(self) -> Sequence[str]:
        """The answer's; none before it is chosen."""
        return self._chosen.text if self.reflection else []

    @property
    def logprobs(self) -> Sequence[inference_pb2.TokenLogprob]:
        """The answer's; none before it is chosen."""
        return self._chosen.logprobs if self.reflection else []

    @property
    def route(self) -> inference_pb2.Route:
        """Where the answer came from and why."""
        return self._chosen.route

    @property
    def kv(self) -> inference_pb2.Kv:
        """How the answer's KV is held."""
        return self._chosen.kv

    @property
    def finish(self) -> inference_pb2.FinishReason:
        """Why it ended; FINISH_UNSPECIFIED before."""
        return self._chosen.finish if self.reflection else inference_pb2.FINISH_UNSPECIFIED

    @property
    def stop_text(self) -> str:
        """The stop string that ended it; empty where none did."""
        return self._chosen.stop_text if self.reflection else ""

    tool_calls: Sequence[inference_pb2.ToolCall] = ()
    tool_runs: Sequence[inference_pb2.ToolRun] = ()
    session_id = ""
    session_turns = stored_turns = 0

    @property
    def turns(self) -> int:
        """Messages of the conversation with the answer."""
        return len(self._asked.messages) + 1

    async def answer(self) -> str:
        """The whole text."""
        async with aclosing(self.deltas()) as deltas:
            async for _ in deltas:
                pass
        return "".join(self.text)

    async def deltas(self) -> AsyncGenerator[str, None]:
        """The answer in one piece, once it is chosen. Closing it cancels the attempt that runs.

        Raises as Generation.deltas, InvalidArgument for an assertion that cannot be checked, and DeadlineExceeded
        where not even the first attempt ends in time; what a later one raises ends the attempts.
        """
        stopped = await self._attempt_all()
        self.reflection = self._told(stopped)
        self._requests.records.answered_by(self.id, self._chosen.id)
        if text := "".join(self.text):
            yield text

    async def _attempt_all(self) -> str:
        """Generate and judge until one passes; why there are no more attempts where none does."""
        await asyncio.to_thread(check_readable, self._asked)
        self._enforceable = await self._enforced()
        while True:
            try:
                async with asyncio.timeout(self._ends_s - time.monotonic()):
                    await self._attempts[-1].answer()
                    judgement, quality = await self._judge(self._attempts[-1])
            except TimeoutError:
                if not self._judgements:
                    raise DeadlineExceeded(
                        f"the first attempt did not end within {self._asked.reflect.deadline_ms or DEADLINE_MS} ms",
                        param="russet.reflect.deadline_ms",
                    ) from None
                return "the deadline came"
            except RussetError as error:
                if not self._judgements:
                    raise
                return f"{type(error).__name__}: {error}"
            self._judgements.append(judgement)
            self._qualities.append(quality)
            made = len(self._judgements)
            if judgement.passed:
                return ""
            if made == self._allowed:
                return f"{made} attempts were made"
            held = self._asked.decoding.HasField("grammar")
            try:
                self._begin(next_strategy(made, self._allowed, held=held, enforceable=self._enforceable is not None))
            except RussetError as error:
                return f"{type(error).__name__}: {error}"

    def _begin(self, strategy: Strategy) -> None:
        made = len(self._judgements)
        answer = "".join(self._attempts[-1].text) if made else ""
        problems = self._judgements[-1].problems if made else ()
        request = attempt_request(self._asked, strategy, made, answer, problems, self._enforceable)
        generation = self._requests.begin(request, self._caller, self._grounding)
        answer_id = self.id if made else ""
        generation.attempt = Attempt(answer_id, asserted(self._asked))
        if made:
            generation.id = f"{self.id}-{made + 1}"
        self._attempts.append(generation)
        self._strategies.append(strategy)

    async def _enforced(self) -> inference_pb2.Grammar | None:
        """What an answer can be held to for the sake of the assertions; None where it may be held to nothing more."""
        decoding = self._asked.decoding
        if decoding.HasField("grammar") or decoding.ignore_eos or decoding.min_tokens:
            return None
        for grammar in candidates(self._asked.reflect.assertions, decoding.max_tokens):
            for _ in range(WEAKENED):
                if (why := await self._requests.grammars.refusal(grammar)) is None:
                    return grammar
                if (weaker := weakened(grammar, why)) is None:
                    break
                grammar = weaker
        return None

    async def _judge(self, generation: Generation) -> tuple[Judgement, float | str]:
        text = "".join(generation.text)
        quality: float | str = "it was not asked for"
        if asks_quality(self._asked.reflect.assertions):
            answer = memory_pb2.Answered(
                id=self.id,
                tenant=self._caller.tenant,
                time_ms=generation.created_ms,
                text=text,
                demands=[memory_pb2.Demand(text=text, grammar=grammar) for grammar in demanded(self._asked)],
            )
            try:
                quality = await self._requests.records.quality_of(question_of(self._asked), answer)
            except RussetError as error:
                quality = error.message
        return await asyncio.to_thread(judged, text, self._asked, quality), quality

    def _told(self, stopped: str) -> inference_pb2.Reflection:
        chosen = best(self._judgements)
        quality = self._qualities[chosen]
        return inference_pb2.Reflection(
            passed=self._judgements[chosen].passed,
            confidence=confidence(self._judgements, quality if isinstance(quality, float) else None),
            chosen=chosen,
            attempts=[
                inference_pb2.Attempt(id=each.id, strategy=strategy, met=judgement.met, problems=judgement.problems)
                for each, strategy, judgement in zip(self._attempts, self._strategies, self._judgements, strict=False)
            ],
            stopped=stopped,
        )
