"""What is kept of a finished request, sent after the client has its answer and never in its way.

    put() -> inbox -> embed the questions -> sessions (memory) · reports (router)
                                             score the answers -> witness entries (memory) · trajectories (learner)

Each queue is bounded. Where questions or answers come faster than they are embedded or scored, the oldest go on
without; the other queues drop their oldest, counted. An actor that is away is no error: its batch is tried again.
Witness entries go by way of a spool on disk (cluster.gateway.spool).
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from actors.base.errors import InvalidArgument, RussetError, TooLarge
from actors.base.telemetry import Telemetry
from cluster.gateway.config import GatewayConfig
from cluster.gateway.finished import Finished, witness_entry
from cluster.gateway.outbox import Outbox
from cluster.gateway.outcomes import Outcomes
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.sessions import Sessions
from cluster.gateway.spool import Spool
from protos.gen import inference_pb2, learner_pb2, memory_pb2, router_pb2
from protos.gen.learner_pb2_grpc import LearnerStub
from protos.gen.memory_pb2_grpc import MemoryStub
from protos.gen.router_pb2_grpc import RouterStub

log = logging.getLogger(__name__)

EMBED_CHARS = 8192
"""Of a question, at most this much is embedded: more than any sentence encoder reads."""
REPEATED_QUESTION_CHARS, REPEATED_ANSWER_CHARS = 4_000, 16_000
"""Longer ones are not kept as what worked before; an answer's correction may be longer."""
SCORE_TIMEOUT_S = 60.0
SESSIONS_KEPT = 16384
CHOSEN_KEPT = 16384
FLUSH_S = 3.0


class Records:
    """Takes finished requests and brings them to memory, learner and router."""

    def __init__(
        self,
        config: GatewayConfig,
        router: RouterStub,
        memory: MemoryStub,
        learner: LearnerStub,
        sessions: Sessions,
        outcomes: Outcomes,
        telemetry: Telemetry,
        spool: Spool | None = None,
    ) -> None:
        """`spool` takes the witness entries; without it they wait in this process alone."""
        self._spool = spool
        self._router, self._memory, self._learner, self._conversations = router, memory, learner, sessions
        self._outcomes = outcomes
        self._chosen: OrderedDict[str, str] = OrderedDict()
        """Of answers that had several attempts: the attempt's id by the answer's."""
        self._last: OrderedDict[tuple[str, str], str] = OrderedDict()
        dropped = self._dropped = telemetry.counter(
            "russet_gateway_records_dropped_total", "Records of finished requests that were lost", labels=("to",)
        )

        def outbox(
            to: str,
            send: Callable[[Sequence[Finished]], Awaitable[None]],
            delay_s: float = 0.0,
            overflow: Callable[[Finished], None] | None = None,
        ) -> Outbox[Finished]:
            count = dropped.labels(to=to)
            return Outbox(to, send, count.inc, config.record_queue, config.record_batch, delay_s, overflow)

        self._inbox = outbox("embedder", self._embed, config.record_delay_s, self._embedding_is_over)
        self.answering = 0
        """Requests whose answers are being made now."""
        self._share, self._patience = config.quality_share, config.record_queue // 2
        self._unscored = outbox("scorer", self._score, overflow=self._scoring_is_over)
        self._embedded = [self._unscored, outbox("sessions", self._sessions), outbox("router", self._report)]
        self._scored = [outbox("witness", self._witness), outbox("learner", self._trajectories)]

    def put(self, finished: Finished) -> None:
        """Queue one; returns at once."""
        if finished.session_id:
            key = (finished.tenant, finished.session_id)
            finished.follows = self._last.pop(key, "")
            self._last[key] = finished.id
            if len(self._last) > SESSIONS_KEPT:
                self._last.popitem(last=False)
        self._inbox.put(finished)

    async def start(self) -> None:
        """Begin to send."""
        if self._spool is not None:
            await self._spool.start()
        for box in (self._inbox, *self._embedded, *self._scored):
            box.start()

    async def flush(self) -> None:
        """Return when everything put so far was sent, spooled or dropped, or FLUSH_S seconds are over."""
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._inbox.flush()
                await asyncio.gather(*(box.flush() for box in self._embedded))
                await asyncio.gather(*(box.flush() for box in self._scored))
        except TimeoutError:
            log.warning("records of finished requests still wait for memory, learner or router")

    async def chosen(self, told: inference_pb2.FeedbackRequest) -> inference_pb2.FeedbackRequest:
        """Feedback as it is of the attempt that was chosen as the answer, which the learner knows by then."""
        await self.flush()
        chosen = told
        if attempt := self._chosen.get(told.response_id):
            chosen = inference_pb2.FeedbackRequest()
            chosen.CopyFrom(told)
            chosen.response_id = attempt
        if chosen.HasField("rating"):
            self._outcomes.rated(chosen.response_id, chosen.rating)
        return chosen

    def answered_by(self, answer: str, attempt: str) -> None:
        """Remember which attempt an answer is: ratings of the answer are of it."""
        if answer != attempt:
            self._chosen[answer] = attempt
            if len(self._chosen) > CHOSEN_KEPT:
                self._chosen.popitem(last=False)

    async def quality_of(self, question: str, answer: memory_pb2.Answered) -> float:
        """How good an answer is, now. Raises RussetError where memory is away."""
        if question:
            request = memory_pb2.EmbedRequest(texts=[question[:EMBED_CHARS]])
            answer.query_embedding[:] = (await self._memory.Embed(request)).values
        return (await self._memory.Score(memory_pb2.ScoreRequest(answers=[answer]))).qualities[0].total

    async def stop(self) -> None:
        """Flush, then end; what is spooled and not written yet is sent by the next gateway that has the directory."""
        await self.flush()
        for box in (self._inbox, *self._embedded, *self._scored):
            await box.stop()
        if self._spool is not None:
            await self._spool.stop(FLUSH_S)

    async def _embed(self, batch: Sequence[Finished]) -> None:
        """One embedding for each question; without memory the records go on without."""
        asked = [finished for finished in batch if finished.question and not finished.embedding]
        if asked:
            request = memory_pb2.EmbedRequest(texts=[finished.question[:EMBED_CHARS] for finished in asked])
            began = time.monotonic()
            try:
                reply = await self._memory.Embed(request, timeout=10.0)
            except RussetError as error:
                log.info("questions stay without embedding: %s", error)
            else:
                each_ms = (time.monotonic() - began) * 1e3 / len(asked)
                for index, finished in enumerate(asked):
                    finished.embedding_ms = each_ms
                    finished.embedding = list(reply.values[index * reply.width : (index + 1) * reply.width])
        for finished in batch:
            self._embedding_is_over(finished)

    def _embedding_is_over(self, finished: Finished) -> None:
        for box in self._embedded:
            box.put(finished)

    async def _score(self, batch: Sequence[Finished]) -> None:
        """How good the answers are: all where none is being made now, else a share, for that takes time from those.

        Without memory, or where too many wait, the records go on without.
        """
        share = self._share if self.answering else float(self._share > 0)
        ended = [each for each in batch if each.finish not in ("cancelled", "error") and each.text]
        wanted = [each for each in ended if is_drawn(each.id, share)]
        if wanted and self._unscored.waiting <= self._patience:
            request = memory_pb2.ScoreRequest(answers=[answered(finished) for finished in wanted])
            try:
                reply = await self._memory.Score(request, timeout=SCORE_TIMEOUT_S)
            except RussetError as error:
                log.info("answers stay without quality: %s", error)
            else:
                for finished, quality in zip(wanted, reply.qualities, strict=True):
                    finished.quality = quality
                    self._outcomes.scored(finished.id, quality.total)
        for finished in batch:
            self._scoring_is_over(finished)

    def _scoring_is_over(self, finished: Finished) -> None:
        for box in self._scored:
            box.put(finished)

    async def _witness(self, batch: Sequence[Finished]) -> None:
        entries = [witness_entry(finished) for finished in batch]
        if self._spool is not None:
            await self._spool.put(entries)
        else:
            await self._memory.AppendWitness(memory_pb2.AppendWitnessRequest(entries=entries))

    async def _sessions(self, batch: Sequence[Finished]) -> None:
        for finished in batch:
            if finished.session is None:
                continue
            try:
                await self._conversations.write(finished.session, finished.embedding)
            except (InvalidArgument, TooLarge) as error:
                log.warning("memory does not take a session's newest turn: %s", error)
                self._dropped.labels(to="sessions").inc()

    async def _trajectories(self, batch: Sequence[Finished]) -> None:
        trajectories = [trajectory(finished) for finished in batch]
        await self._learner.Record(learner_pb2.RecordRequest(trajectories=trajectories))

    async def _report(self, batch: Sequence[Finished]) -> None:
        await asyncio.gather(*(self._router.Report(report(finished)) for finished in batch))


def is_drawn(answer: str, share: float) -> bool:
    """Whether the answer with this id is among a share: always the same ones."""
    return int.from_bytes(hashlib.blake2b(answer.encode(), digest_size=4).digest()) < share * (1 << 32)


def answered(finished: Finished) -> memory_pb2.Answered:
    """What an answer's quality is told by."""
    return memory_pb2.Answered(
        id=finished.answer_id or finished.id,
        tenant=finished.tenant,
        time_ms=finished.time_ms,
        query_embedding=finished.embedding,
        text=finished.text,
        demands=finished.demands,
    )


def trajectory(finished: Finished) -> learner_pb2.Trajectory:
    """What the learner learns from."""
    return learner_pb2.Trajectory(
        id=finished.id,
        tenant=finished.tenant,
        session_id=finished.session_id,
        model=finished.route.model,
        replica_id=finished.route.replica,
        time_ms=finished.time_ms,
        query_embedding=finished.embedding,
        prompt_ids=finished.prompt_ids,
        answer_ids=finished.answer_ids,
        finish=finished.finish,
        follows=finished.follows,
        total_ms=finished.total_ms,
        quality=finished.quality.total if finished.quality else None,
        patterns_retrieved=finished.route.patterns,
        pattern_used=finished.route.pattern,
        question=short(finished.question, REPEATED_QUESTION_CHARS),
        answer=short(finished.text, REPEATED_ANSWER_CHARS),
        procedures=finished.procedures,
        passages=finished.passages,
        passages_used=finished.passages_used,
        stores=sorted({f"store:{each.store}" for each in finished.documents}),
    )


def short(text: str, most: int) -> str:
    """The text, or nothing where it is longer: half of an answer is none to repeat."""
    return text if len(text) <= most else ""


def report(finished: Finished) -> router_pb2.ReportRequest:
    """How the replica did."""
    return router_pb2.ReportRequest(
        request_id=finished.id,
        replica_id=finished.route.replica,
        session_id=finished.session_id,
        tenant=finished.tenant,
        prefix_hashes=finished.prefix_hashes,
        succeeded=finished.finish != "error",
        ttft_ms=finished.ttft_ms,
        tpot_ms=finished.tpot_ms,
        prompt_tokens=finished.usage.prompt_tokens,
        cached_tokens=finished.usage.cached_tokens,
        completion_tokens=finished.usage.completion_tokens,
    )


def question_of(request: GenerateMessage) -> str:
    """The last user turn."""
    if isinstance(request, inference_pb2.CompleteRequest):
        return request.text
    return next((message.content for message in reversed(request.messages) if message.role == "user"), "")


def demands_of(
    request: GenerateMessage,
    text: str,
    calls: Sequence[inference_pb2.ToolCall],
    asserted: Sequence[inference_pb2.Grammar] = (),
) -> list[memory_pb2.Demand]:
    """What was asked of the form of an answer: of its text, where it has any or calls nothing, and of its calls.

    `asserted`: languages that its text has to be of, without being held to them.
    """
    demands = [memory_pb2.Demand(text=text, grammar=grammar) for grammar in asserted]
    if request.decoding.grammar.WhichOneof("language") and (text or not calls):
        demands.append(memory_pb2.Demand(text=text, grammar=request.decoding.grammar))
    if isinstance(request, inference_pb2.ChatRequest):
        schemas = {tool.name: inference_pb2.Grammar(json_schema=tool.parameters) for tool in request.tools}
        asked = [call for call in calls if schemas[call.name].json_schema]
        demands += [memory_pb2.Demand(text=call.arguments, grammar=schemas[call.name]) for call in asked]
    return demands


def said(text: str, calls: Sequence[inference_pb2.ToolCall]) -> str:
    """An answer as one text; calls as their name and arguments."""
    return "\n".join([*filter(None, [text]), *(f"{call.name} {call.arguments}" for call in calls)])
