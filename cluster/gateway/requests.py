"""The one path that HTTP and gRPC share: a request to its stream of text, and what is kept of it.

validate -> session -> model's vocabulary -> render -> tokenize -> route -> generate (failover) -> detokenize -> record
"""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.model_names import leaves_choice
from actors.base.telemetry import REQUEST, Telemetry
from cluster.gateway import genai
from cluster.gateway.answering import Answering
from cluster.gateway.asking import asked_of
from cluster.gateway.caller import Caller
from cluster.gateway.catalog import Catalog, ModelView
from cluster.gateway.checks import check_request
from cluster.gateway.config import GatewayConfig
from cluster.gateway.conversation import Conversation, Within
from cluster.gateway.errors import ModelNotFound
from cluster.gateway.failover import Dispatcher, Job, ModelChanged
from cluster.gateway.finished import Attempt, Finished, models_of, options_of
from cluster.gateway.grammars import Grammars
from cluster.gateway.outcomes import Outcomes, Variant
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.recall.grounding import Grounding, Recall
from cluster.gateway.records import EMBED_CHARS, Records, demands_of, question_of, said
from cluster.gateway.routes import Routes, prefix_hashes
from cluster.gateway.sessions import Sessions
from cluster.gateway.tools.plan import ToolPlan
from cluster.gateway.tools.reader import Delta
from cluster.tool_runtime.runtime import ToolRuntime
from protos.gen import inference_pb2, memory_pb2, router_pb2, scheduler_pb2

log = logging.getLogger(__name__)

MAX_REVISIONS = 3
KINDS = {True: ("chatcmpl", "chat"), False: ("cmpl", "text_completion")}
"""Whether it is a chat -> how its id begins, and OpenTelemetry's name of the operation."""
FINISH_NAMES = {
    inference_pb2.FINISH_STOP: "stop",
    inference_pb2.FINISH_LENGTH: "length",
    inference_pb2.FINISH_TOOL_CALLS: "tool_calls",
}


class Requests:
    """Makes generations. Holds what they share."""

    def __init__(
        self,
        config: GatewayConfig,
        routes: Routes,
        catalog: Catalog,
        dispatcher: Dispatcher,
        records: Records,
        sessions: Sessions,
        tools: ToolRuntime,
        outcomes: Outcomes,
        recall: Recall,
        telemetry: Telemetry,
    ) -> None:
        self.config = config
        self.routes = routes
        self.catalog = catalog
        self.dispatcher = dispatcher
        self.records = records
        self.sessions = sessions
        self.tools = tools
        self.recall = recall
        self.telemetry = telemetry
        self.grammars = Grammars(config.grammar_timeout_s)
        self.views: dict[str, ModelView] = {}
        """The view last used for a name: its prompts are tokenized with it, and anew where another model is chosen."""
        self.last_token_s = 0.0
        """time.monotonic() of the newest token that any replica sent."""
        self.outcomes = outcomes
        self.measurements = genai.Measurements(telemetry)
        self.tokens = telemetry.counter("russet_gateway_tokens_total", "Tokens passed on to clients")

    def begin(
        self,
        request: GenerateMessage,
        caller: Caller,
        grounding: Grounding,
        *,
        probe: bool = False,
        within: Within | None = None,
    ) -> "Generation":
        """Validate a request. Raises InvalidArgument naming the parameter; nothing is asked of any actor yet.

        probe: a health check, which waits for no replica and is not recorded. within: the answer that it is a part of.
        """
        check_request(request)
        conversation = Conversation(self.sessions, caller.tenant, request, within, grounding)
        return Generation(self, conversation, caller, probe)


class Generation:
    """An AnswerStream of one job. Iterate deltas() once; the other fields fill as it goes, all of them by its end."""

    # cluster.gateway.tool_loop and .reflect, which make one answer of several generations, tell of these.
    tool_runs: Sequence[inference_pb2.ToolRun] = ()
    reflection: inference_pb2.Reflection | None = None
    attempt = Attempt()

    def __init__(self, requests: Requests, conversation: Conversation, caller: Caller, probe: bool) -> None:
        self._requests = requests
        self._caller = caller
        self._conversation = conversation
        self._probe = probe
        self._arrived_s = time.monotonic()
        self._job: Job | None = None
        self._first_token_s = 0.0
        self._last_token_s = 0.0
        self._timings = scheduler_pb2.Timings()
        self._drafted = self._accepted = 0
        self._answering: Answering | None = None
        """The newest job's."""
        self._plan: ToolPlan | None = None
        kind, self._operation = KINDS[isinstance(conversation.request, inference_pb2.ChatRequest)]
        self.id = f"{kind}-{secrets.token_hex(12)}"
        self.created_ms = int(time.time() * 1000)
        self.created = self.created_ms // 1000
        self.text: list[str] = []
        """The deltas so far that are text."""
        self.note: Callable[[], str] = str
        """What its session is to keep of it beside the turn (memory's Session.response); asked once it has ended."""
        self._tail = ""
        """Of the prompt, what the answer has to begin with (cluster.gateway.healing); not part of the text."""

    @property
    def logprobs(self) -> Sequence[inference_pb2.TokenLogprob]:
        """Where asked for: of the tokens whose text begins in the deltas so far; of all of them by the end."""
        return self._answering.logprobs if self._answering else ()

    @property
    def echoed_tokens(self) -> int:
        """Entries of logprobs that are the echoed prompt's."""
        return self._answering.echoed_tokens if self._answering else 0

    @property
    def tool_calls(self) -> Sequence[inference_pb2.ToolCall]:
        """Tools that it calls, as far as they are certain; where something cut the answer, the last may be cut too."""
        return self._answering.calls if self._answering else ()

    @property
    def finish(self) -> inference_pb2.FinishReason:
        """Why it ended; FINISH_UNSPECIFIED before."""
        return self._answering.finish if self._answering else inference_pb2.FINISH_UNSPECIFIED

    @property
    def stop_text(self) -> str:
        """The stop string that ended it; empty where none did."""
        return self._answering.stop_text if self._answering else ""

    @property
    def model(self) -> str:
        """The model that answers; as asked before that is known."""
        job = self._job
        return job.decision.model if job and job.decision else self._request.model

    @property
    def revision(self) -> str:
        """Of the weights; empty before that is known."""
        return self._job.view.model.revision if self._job else ""

    @property
    def failovers(self) -> int:
        """How often the stream went on at another replica."""
        return self._job.failovers if self._job else 0

    @property
    def usage(self) -> inference_pb2.Usage:
        """Tokens read and written so far."""
        job = self._job
        return inference_pb2.Usage(
            prompt_tokens=job.generate.prompt_tokens if job else 0,
            completion_tokens=self._tokens,
            cached_tokens=job.admission.cached_tokens if job and job.admission else 0,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
        )

    @property
    def retrieval(self) -> inference_pb2.Retrieval | None:
        """What was retrieved for it, where that was asked for."""
        return self._conversation.grounding.told

    @property
    def tells_logprobs(self) -> bool:
        """Whether log-probabilities were asked for."""
        return self._request.decoding.HasField("logprobs")

    @property
    def session_id(self) -> str:
        """The session that it belongs to; empty where it belongs to none."""
        return self._request.session_id

    @property
    def session_turns(self) -> int:
        """Turns of the session that stand before the request's messages."""
        return self._conversation.turns

    @property
    def stored_turns(self) -> int:
        """Turns that the session had; 0 where it was new."""
        return self._conversation.stored.turn_count

    @property
    def turns(self) -> int:
        """Turns that the session has with this answer."""
        request = self._request
        return len(request.messages) + 1 if isinstance(request, inference_pb2.ChatRequest) else 0

    @property
    def _request(self) -> GenerateMessage:
        """As sent, then as the model reads it."""
        return self._conversation.request

    @property
    def _tokens(self) -> int:
        """Tokens of the answer."""
        return self._answering.tokens if self._answering else 0

    @property
    def _token_ids(self) -> list[int]:
        """Prompt and answer."""
        return [*self._job.generate.token_ids, *self._job.emitted[: self._tokens]] if self._job else []

    @property
    def kv(self) -> inference_pb2.Kv:
        """How its KV is held, as the replica says; empty before it does."""
        return self._job.kv if self._job else inference_pb2.Kv()

    @property
    def route(self) -> inference_pb2.Route:
        """Where it went and why."""
        told = self._job.told_route if self._job else inference_pb2.Route()
        return told if told.model else inference_pb2.Route(model=self.model)

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Text as it becomes certain, whole characters, never empty, and tool calls where the request has tools.

        Closing it cancels the generation.

        Raises RussetError: NotFound (model), InvalidArgument, QueueFull, Unavailable, Internal.
        """
        request, telemetry = self._request, self._requests.telemetry
        REQUEST.set(self.id)
        attributes = genai.asked(self._operation, self.model, request.session_id, request.decoding)
        with telemetry.span(f"{self._operation} {self.model}", attributes) as span:
            finish, problem, kind = "cancelled", "", "cancelled"
            self._requests.records.answering += 1
            try:
                async with self._conversation.turn():
                    async with aclosing(self._generate_as_served(await self._prepare())) as deltas:
                        async for delta in deltas:
                            if isinstance(delta, str):
                                self.text.append(delta)
                            yield delta
                    calls = self._answering.whole_calls if self._answering else ()
                    noted, ids = self.note(), self._token_ids
                    self._conversation.keep("".join(self.text), calls, ids, self.route, self.kv.format, noted)
                finish, kind = FINISH_NAMES[self.finish], ""
            except Exception as error:
                finish, problem, kind = "error", f"{type(error).__name__}: {error}", type(error).__name__
                if isinstance(error, NotFound):
                    raise ModelNotFound(error.message, param="model") from error
                raise
            finally:
                self._requests.records.answering -= 1
                genai.answered(span, self.id, self.model, finish, kind, self.usage, self.failovers)
                tokens = self.usage.prompt_tokens, self.usage.completion_tokens
                log.info("%s of %.80r: %s, %d + %d tokens", self._operation, self.model, kind or finish, *tokens)
                self._record(finish, problem, kind)

    async def answer(self) -> str:
        """The whole text."""
        async with aclosing(self.deltas()) as deltas:
            async for _ in deltas:
                pass
        return "".join(self.text)

    async def explained(self) -> router_pb2.RouteReply:
        """How it would be routed now; nothing runs, and nothing is kept of it. Raises as `deltas` does."""
        async with self._conversation.turn():
            job = await self._prepare(dry=True)
            return await self._requests.routes.choose(job.route)

    async def _prepare(self, *, dry: bool = False) -> Job:
        request, requests = self._request, self._requests
        route = router_pb2.RouteRequest(
            request_id=self.id,
            model="" if request.model == "auto" else request.model,
            tenant=self._caller.tenant,
            session_id=request.session_id,
            max_tokens=request.decoding.max_tokens,
            priority=request.priority,
            session_replica=self._conversation.stored.replica_id,
            route_key=request.route_key,
            latency_budget_ms=request.latency_budget_ms,
            dry=dry,
        )
        if leaves_choice(route.model):
            route.text, route.turns = question_of(request)[:EMBED_CHARS], self._conversation.turns
        view = requests.views.get(route.model)
        if view is None:
            view = await requests.dispatcher.locate(route, self._wait_s)
            del route.exclude[:]
        self._job = await self._job_of(route, view)
        return self._job

    async def _job_of(self, route: router_pb2.RouteRequest, view: ModelView) -> Job:
        """The request as tokens of this model."""
        requests, stored = self._requests, self._conversation.stored
        requests.views[route.model] = view
        if stored.model != view.model.id:
            stored = memory_pb2.Session()  # Another model's tokens and KV are none of this one's.
        most = requests.config.max_tokens_default
        prompt = await self._conversation.grounding.prompt(self._request, view, stored.token_ids)
        given = prompt, view, view.model.id, requests.grammars, stored.token_ids, most
        generate, self._plan, self._tail = await asked_of(*given)
        generate.request_id, generate.tenant = self.id, self._caller.tenant
        route.prompt_tokens, route.max_tokens = generate.prompt_tokens, generate.max_tokens
        route.prefix_hashes[:] = prefix_hashes(generate.token_ids)
        return Job(route, generate, view, self._wait_s, kept_by=stored.replica_id)

    async def _generate_as_served(self, job: Job) -> AsyncGenerator[Delta, None]:
        """Deltas of the job, made anew for each model, or revision of it, that turns out to serve it."""
        for _ in range(MAX_REVISIONS):
            try:
                async with aclosing(self._generate(job)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except ModelChanged as change:
                job = self._job = await self._job_of(job.route, change.view)
            except InvalidArgument as refusal:
                if refusal.param != "kv_format" or not self._conversation.own_kv_format:
                    raise
                job.generate.kv_format = ""  # The session's form is not to be had there, and nobody asked for it.
        raise Unavailable(f"the replicas of {job.route.model} serve different revisions of it")

    async def _generate(self, job: Job) -> AsyncGenerator[Delta, None]:
        """Deltas of one job, up to its finish or a stop string."""
        requests = self._requests
        answering = self._answering = Answering(self._request, job.generate, job.view, self._tail, self._plan)
        try:
            async with aclosing(requests.dispatcher.stream(job)) as events:
                async for event in events:
                    if event.token_ids:
                        self._last_token_s = requests.last_token_s = time.monotonic()
                        self._first_token_s = self._first_token_s or self._last_token_s
                    self._drafted += event.drafted_tokens
                    self._accepted += event.accepted_tokens
                    if event.HasField("timings"):
                        self._timings = event.timings
                    for delta in answering.push(event):
                        yield delta
                    if answering.finish and not event.finish_reason:
                        return
        finally:
            requests.tokens.inc(answering.tokens)

    @property
    def _wait_s(self) -> float:
        return 0.0 if self._probe else self._requests.config.failover_wait_s

    def _record(self, finish: str, problem: str, kind: str) -> None:
        if self._probe:
            return
        job, now = self._job, time.monotonic()
        first = self._first_token_s or now
        each_s = max(0.0, self._last_token_s - first) / (self._tokens - 1) if self._tokens > 1 else None
        first_s = first - self._arrived_s if self._first_token_s else None
        model = job.decision.model if job and job.decision else ""
        self._requests.measurements.record(
            self._operation, model, kind, total_s=now - self._arrived_s, first_s=first_s, each_s=each_s
        )
        self._requests.outcomes.ended(self.id, Variant(job.alias if job else "", model), kind, first_s, each_s)
        if job is not None and self._answering is not None:
            self._caller.spent.tokens += self.usage.prompt_tokens + self.usage.completion_tokens
        if job is None or job.candidate is None:
            return  # Nothing ran: refused or unroutable requests leave no trace beyond the metrics.
        answering = self._answering
        text = "".join(self.text[1:] if answering and answering.echoed else self.text)
        calls = answering.whole_calls if answering else ()
        finished = Finished(
            id=self.id,
            tenant=self._caller.tenant,
            session_id=self._request.session_id,
            time_ms=self.created_ms,
            route=self.route,
            revision=self.revision,
            question=question_of(self._request),
            session=self._conversation.kept,
            text=said(text, self.tool_calls),
            demands=demands_of(self._request, text, calls, self.attempt.asserted),
            answer_id=self.attempt.answer_id,
            prompt_ids=list(job.generate.token_ids),
            answer_ids=job.emitted[: self._tokens],
            prefix_hashes=list(job.route.prefix_hashes),
            usage=self.usage,
            timings=self._timings,
            finish=finish,
            error=problem,
            routing_ms=job.routing_s * 1e3,
            ttft_ms=(first - self._arrived_s) * 1e3,
            tpot_ms=(each_s or 0.0) * 1e3,
            total_ms=(now - self._arrived_s) * 1e3,
            retrieval_ms=self._conversation.retrieval_s * 1e3,
            options=options_of(job.decision, job.candidate.replica_id) if job.decision else (),
            models=models_of(job.decision) if job.decision else (),
            kv_format=self.kv.format,
        )
        self._requests.records.put(self._conversation.grounding.noted(finished))
