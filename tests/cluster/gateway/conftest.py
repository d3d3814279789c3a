"""Fakes of everything behind the gateway, over inproc; the gateway itself is real, on real ports."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from actors.base.channel import connect
from actors.base.errors import Internal, InvalidArgument, NotFound, TooLarge, Unavailable
from actors.base.model_names import leaves_choice
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.base.vocabulary import Vocabulary, byte_of_character, digest_of
from cluster.config import Config
from cluster.controller import check_replicas, check_timeout, model_asked, taken, unknown
from cluster.gateway.config import GatewayConfig
from cluster.gateway.service import Gateway
from cluster.tool_runtime.config import ToolsConfig
from protos.gen import (
    documents_pb2,
    documents_pb2_grpc,
    inference_pb2,
    learner_pb2,
    learner_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    worker_pb2,
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 512
_names = itertools.count()


def byte_vocabulary(template: str = TEMPLATE, *, bos: bool = False) -> worker_pb2.Vocabulary:
    """Byte-level: token i is byte i; then <|endoftext|> 256, <|im_start|> 257, <|im_end|> 258."""
    pieces = dict(byte_of_character())
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    return worker_pb2.Vocabulary(
        tokenizer_json=tokenizer.to_str().encode(),
        chat_template=template,
        eos_ids=[258, 256],
        bos_id=256,
        add_bos=bos,
        vocab_size=259,
    )


def told_of(ids: list[int], tops: int, value: float) -> worker_pb2.Logprobs:
    """What a fake replica tells of tokens: `value` of each, and of the alternatives `id + i` -(1 + i)."""
    return worker_pb2.Logprobs(
        chosen=[value] * len(ids),
        tops=tops,
        top_ids=[(token + place) % 256 for token in ids for place in range(tops)],
        top_values=[-1 - place for _ in ids for place in range(tops)],
    )


class Bell:
    """Rings when a fake was called, so that tests wait for what happens and not for time."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Return when `condition` holds; looks again at every ring."""
        async with asyncio.timeout(10):
            while not condition():
                self._rung.clear()
                await self._rung.wait()


class FakeScheduler(scheduler_pb2_grpc.SchedulerServicer):
    """Answers with the bytes of `answer`, one token an event, and misbehaves as told."""

    def __init__(self, replica_id: str, model: str, answer: str = "Hello, world") -> None:
        self.replica_id = replica_id
        self.answer_ids = list(answer.encode())
        self.per_event = 1
        self.model = worker_pb2.ModelInfo(id=model, revision="r1" * 8, context_length=CONTEXT)
        self.vocabulary = byte_vocabulary()
        self.requests: list[scheduler_pb2.GenerateRequest] = []
        self.refuse: Exception | None = None
        self.break_after: int | None = None
        """Raise `breakage` after so many tokens of a stream, once."""
        self.breakage: Exception = Unavailable("the worker died")
        self.hold_after: int | None = None
        """Wait for ever after so many tokens of a stream."""
        self.holding = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.cancellations = 0
        self.script: list[str] = []
        """Answers to the next requests, one each, before `answer` is given."""
        self.answers: dict[int, str] = {}
        """By seed, where it is not the answer."""
        self.values: dict[int, float] = {}
        """By seed, the log-probability of every token, where it is not -1."""
        self.per_score = 100
        """Prompt tokens told of an event."""
        self.break_scoring = False
        """Raise `breakage` after the first of these, once."""
        self.fail_seed: int | None = None
        """A seed whose streams break with Internal once another holds."""
        self.cached_tokens = 0
        self.restored_tokens = 0
        self.forms = ("", "f16", "q8", "q4", "auto")
        self.describes = 0
        self.vocabularies_sent = 0

    async def Describe(self, request: Any, context: Any) -> scheduler_pb2.DescribeReply:
        self.describes += 1
        reply = scheduler_pb2.DescribeReply(replica_id=self.replica_id, model=self.model)
        reply.vocabulary_digest = digest_of(self.vocabulary)
        if reply.vocabulary_digest not in request.known_vocabularies:
            self.vocabularies_sent += 1
            reply.vocabulary.CopyFrom(self.vocabulary)
        return reply

    async def Generate(
        self, request: scheduler_pb2.GenerateRequest, context: Any
    ) -> AsyncGenerator[scheduler_pb2.GenerateEvent, None]:
        self.requests.append(request)
        if self.refuse is not None:
            raise self.refuse
        if request.kv_format not in self.forms:
            raise InvalidArgument(f"kv_format is {request.kv_format}", param="kv_format")
        seed = request.sampling.seed
        if seed == self.fail_seed:
            await self.holding.wait()
            raise Internal("the row failed")
        answer_ids = list(self.answers[seed].encode()) if seed in self.answers else self.answer_ids
        if self.script:
            answer_ids = list(self.script.pop(0).encode())
        done = len(request.token_ids) - request.prompt_tokens
        length = min(len(answer_ids), request.max_tokens or CONTEXT)
        admission = scheduler_pb2.Admission(
            replica_id=self.replica_id,
            epoch=1,
            cached_tokens=self.cached_tokens,
            kv_format=request.kv_format or "f16",
            restored_tokens=self.restored_tokens,
        )
        sent = 0
        prompt = list(request.token_ids[: request.prompt_tokens])
        scored = prompt[request.score_from :] if request.score_from else []
        try:
            while scored:
                part, scored = scored[: self.per_score], scored[self.per_score :]
                value = self.values.get(seed, -1)
                yield scheduler_pb2.GenerateEvent(
                    admission=admission, prompt_logprobs=told_of(part, request.logprobs, value)
                )
                if self.break_scoring:
                    self.break_scoring = False
                    raise self.breakage
            while True:
                if sent == self.hold_after:
                    self.holding.set()
                    await asyncio.Event().wait()
                if sent == self.break_after:
                    self.break_after = None
                    raise self.breakage
                ids = answer_ids[done : min(done + self.per_event, length)]
                done, sent = done + len(ids), sent + len(ids)
                finish = inference_pb2.FINISH_UNSPECIFIED
                if done == length:
                    whole = length == len(answer_ids)
                    finish = inference_pb2.FINISH_STOP if whole else inference_pb2.FINISH_LENGTH
                event = scheduler_pb2.GenerateEvent(token_ids=ids, finish_reason=finish, admission=admission)
                if request.HasField("logprobs") and ids:
                    event.logprobs.CopyFrom(told_of(ids, request.logprobs, self.values.get(seed, -1)))
                if finish:
                    event.timings.CopyFrom(scheduler_pb2.Timings(queue_us=1000, prefill_us=2000, decode_us=3000))
                yield event
                admission = None
                if finish:
                    return
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancellations += 1
            self.cancelled.set()
            raise


class FakeRouter(router_pb2_grpc.RouterServicer):
    """Routes to every replica not excluded, in order."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.replicas: dict[str, tuple[str, list[str]]] = {}
        self.routed: list[router_pb2.RouteRequest] = []
        self.reports: list[router_pb2.ReportRequest] = []
        self.refuse: Callable[[router_pb2.RouteRequest], Exception | None] = lambda request: None
        self.default = "tiny"
        self.isa_classes: dict[str, str] = {}
        self.epoch = 1
        self.aliases: dict[str, inference_pb2.Alias] = {}
        """Those that were put. Requests by them go to the first target, or the one settled on."""
        self.outcomes: list[router_pb2.Outcome] = []
        self.retired: list[str] = []
        self.choice: router_pb2.ModelChoice | None = None
        """What it says of models that it chooses itself."""

    async def Route(self, request: router_pb2.RouteRequest, context: Any) -> router_pb2.RouteReply:
        copy = router_pb2.RouteRequest()
        copy.CopyFrom(request)
        self.routed.append(copy)
        self.bell.ring()
        if (error := self.refuse(copy)) is not None:
            raise error
        model = self.default if leaves_choice(request.model) else request.model
        alias = self.aliases.get(model)
        if alias is not None:
            model = request.settled or alias.targets[0].model
        candidates = [
            router_pb2.Candidate(
                replica_id=replica, addresses=addresses, epoch=self.epoch, isa_class=self.isa_classes.get(replica, "")
            )
            for replica, (served, addresses) in self.replicas.items()
            if served == model and replica not in request.exclude
        ]
        if not candidates:
            raise Unavailable("no replica is left")
        return router_pb2.RouteReply(
            model=model,
            candidates=candidates,
            confidence=0.75,
            explanation=["it was the first"],
            alias=alias.name if alias else "",
            choice=self.choice if leaves_choice(request.model) else None,
        )

    async def ListReplicas(self, request: Any, context: Any) -> router_pb2.ListReplicasReply:
        return router_pb2.ListReplicasReply(
            default_model=self.default,
            aliases=self.aliases.values(),
            retired=self.retired,
            replicas=[
                router_pb2.Replica(
                    available=True,
                    since_s=1_700_000_000,
                    state=router_pb2.HeartbeatRequest(
                        replica_id=replica,
                        addresses=addresses,
                        model=model,
                        context_length=CONTEXT,
                        isa_class=self.isa_classes.get(replica, ""),
                        worker_addresses=[f"unix:/{replica}.worker"],
                    ),
                )
                for replica, (model, addresses) in self.replicas.items()
            ],
        )

    async def Report(self, request: router_pb2.ReportRequest, context: Any) -> router_pb2.ReportReply:
        self.reports.append(request)
        self.bell.ring()
        return router_pb2.ReportReply()

    async def ListAliases(self, request: Any, context: Any) -> router_pb2.ListAliasesReply:
        return router_pb2.ListAliasesReply(aliases=self.aliases.values())

    async def PutAlias(self, request: router_pb2.PutAliasRequest, context: Any) -> router_pb2.PutAliasReply:
        self.aliases[request.alias.name] = request.alias
        return router_pb2.PutAliasReply(alias=request.alias)

    async def DeleteAlias(self, request: router_pb2.DeleteAliasRequest, context: Any) -> router_pb2.DeleteAliasReply:
        return router_pb2.DeleteAliasReply(found=self.aliases.pop(request.name, None) is not None)

    async def ReportOutcomes(
        self, request: router_pb2.ReportOutcomesRequest, context: Any
    ) -> router_pb2.ReportOutcomesReply:
        self.outcomes.extend(request.outcomes)
        self.bell.ring()
        return router_pb2.ReportOutcomesReply()


class FakeSemantic(router_pb2_grpc.SemanticServicer):
    """One router "shop" a tenant, of what it was last trained on; a text's label is the first there is."""

    def __init__(self) -> None:
        self.trained: dict[str, router_pb2.TrainRouterRequest] = {}
        """By tenant."""
        self.asked: list[Any] = []
        self.outcomes: list[router_pb2.OutcomeRequest] = []

    def _reply(self, request: Any) -> router_pb2.RouterReply:
        self.asked.append(request)
        trained = self.trained.get(request.tenant, router_pb2.TrainRouterRequest())
        labels = sorted({each.label for each in trained.examples if each.label})
        card = router_pb2.RouterCard(router=trained.router, examples=len(trained.examples), labels=labels, accuracy=0.5)
        return router_pb2.RouterReply(router=card, changed=1)

    async def TrainRouter(self, request: router_pb2.TrainRouterRequest, context: Any) -> router_pb2.RouterReply:
        self.trained[request.tenant] = request
        return self._reply(request)

    async def AddExamples(self, request: router_pb2.TrainRouterRequest, context: Any) -> router_pb2.RouterReply:
        return self._reply(request)

    async def PruneRouter(self, request: router_pb2.PruneRouterRequest, context: Any) -> router_pb2.RouterReply:
        return self._reply(request)

    async def DeleteRouter(self, request: router_pb2.DeleteRouterRequest, context: Any) -> router_pb2.DeleteRouterReply:
        return router_pb2.DeleteRouterReply(found=self.trained.pop(request.tenant, None) is not None)

    async def ListRouters(self, request: router_pb2.ListRoutersRequest, context: Any) -> router_pb2.ListRoutersReply:
        return router_pb2.ListRoutersReply(routers=[self._reply(request).router] if self.trained else [])

    async def Classify(self, request: router_pb2.ClassifyRequest, context: Any) -> router_pb2.ClassifyReply:
        if request.tenant not in self.trained:
            raise NotFound("there is no router", param="router")
        return router_pb2.ClassifyReply(
            label=self._reply(request).router.labels[0],
            confidence=0.75,
            alternatives=[router_pb2.LabelScore(label="other", confidence=0.25)],
            neighbours=[router_pb2.Near(text=request.text, label="other", similarity=0.5)],
            scope_score=1,
            scope_threshold=2,
            id="route-1",
        )

    async def Outcome(self, request: router_pb2.OutcomeRequest, context: Any) -> router_pb2.OutcomeReply:
        if request.id != "route-1":
            return router_pb2.OutcomeReply(found=False)
        self.outcomes.append(request)
        return router_pb2.OutcomeReply(found=True, change="learned")


class FakeCost(router_pb2_grpc.CostServicer):
    """A prompt's score is one over its length and one; candidates pass where the margin is below 0."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def Score(self, request: router_pb2.ScoreRequest, context: Any) -> router_pb2.ScoreReply:
        self.asked.append(request)
        if not request.prompts:
            raise InvalidArgument("0 prompts", param="prompts")
        return router_pb2.ScoreReply(p=[1 / (1 + len(prompt)) for prompt in request.prompts], version=2, embedded=True)

    async def TrainCost(self, request: router_pb2.TrainCostRequest, context: Any) -> router_pb2.TrainCostReply:
        self.asked.append(request)
        card = await self.GetCost(router_pb2.GetCostRequest(tenant=request.tenant), context)
        lead = router_pb2.Estimate(value=0.5, low=0.25, high=0.75)
        return router_pb2.TrainCostReply(served=request.margin < 0, reasons=["so"], over_current=lead, serving=card)

    async def GetCost(self, request: router_pb2.GetCostRequest, context: Any) -> router_pb2.CostCard:
        return router_pb2.CostCard(version=3 if request.tenant == "t" else 0, rows=400, embedder="words")


class FakeMemory(memory_pb2_grpc.MemoryServicer):
    """Keeps what it is given; embeds a text as [length, 1]; an answer's quality is its length / 1024."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.entries: list[memory_pb2.WitnessEntry] = []
        self.sessions: dict[tuple[str, str], memory_pb2.Session] = {}
        """By tenant and id."""
        self.puts = 0
        self.refused: set[str] = set()
        """Ids of sessions that are too large."""
        self.away = False
        self.witness_asked: list[Any] = []
        self.answered: list[memory_pb2.Answered] = []
        """Scored, or refused."""
        self.refuse_scores: Exception | None = None
        self.hold_scores: asyncio.Event | None = None
        """Where set, answers are scored once this is."""
        self.holding: asyncio.Event | None = None
        """Where set, a session is put once this is."""

    def _here(self) -> None:
        if self.away:
            raise Unavailable("memory is away")

    async def Embed(self, request: memory_pb2.EmbedRequest, context: Any) -> memory_pb2.EmbedReply:
        self._here()
        if request.dimensions not in (0, 2):
            raise InvalidArgument(f"dimensions is {request.dimensions}; accepted of MiniLM: 2", param="dimensions")
        values = [value for text in request.texts for value in (len(text), 1)]
        return memory_pb2.EmbedReply(model="MiniLM", values=values, width=2, prompt_tokens=3 * len(request.texts))

    async def Score(self, request: memory_pb2.ScoreRequest, context: Any) -> memory_pb2.ScoreReply:
        self._here()
        self.answered.extend(request.answers)
        self.bell.ring()
        if self.hold_scores is not None:
            await self.hold_scores.wait()
        if self.refuse_scores is not None:
            raise self.refuse_scores
        return memory_pb2.ScoreReply(
            qualities=[memory_pb2.Quality(schema=1, total=len(each.text) / 1024) for each in request.answers]
        )

    async def Status(self, request: Any, context: Any) -> memory_pb2.StatusReply:
        self._here()
        return memory_pb2.StatusReply(embedder="MiniLM", embedders=["MiniLM"], width=2)

    async def AppendWitness(self, request: memory_pb2.AppendWitnessRequest, context: Any) -> Any:
        self._here()
        self.entries.extend(request.entries)
        self.bell.ring()
        return memory_pb2.AppendWitnessReply()

    async def QueryWitness(self, request: memory_pb2.QueryWitnessRequest, context: Any) -> memory_pb2.QueryWitnessReply:
        self.witness_asked.append(request)
        found = [each for each in self.entries if request.id in ("", each.id)]
        return memory_pb2.QueryWitnessReply(records=[memory_pb2.WitnessRecord(entry=each) for each in found])

    async def SimilarWitness(self, request: Any, context: Any) -> memory_pb2.SimilarWitnessReply:
        self.witness_asked.append(request)
        found = [memory_pb2.WitnessRecord(entry=each) for each in self.entries]
        return memory_pb2.SimilarWitnessReply(
            found=[memory_pb2.SimilarWitness(record=each, similarity=0.5, matched="error") for each in found]
        )

    async def SlowWitness(self, request: Any, context: Any) -> memory_pb2.SlowWitnessReply:
        self.witness_asked.append(request)
        found = [memory_pb2.WitnessRecord(entry=each) for each in self.entries]
        return memory_pb2.SlowWitnessReply(
            spikes=[memory_pb2.SlowEntry(record=each, median_ms=2, p99_ms=8, ratio=4) for each in found], entries=9
        )

    async def WitnessStats(self, request: Any, context: Any) -> memory_pb2.WitnessStatsReply:
        self.witness_asked.append(request)
        part = memory_pb2.Percentiles(part="total", p50=1, p90=2, p95=3, p99=4)
        group = memory_pb2.WitnessGroup(key=request.by, entries=5, errors=1, latency=[part])
        return memory_pb2.WitnessStatsReply(groups=[group], first_ms=7, last_ms=8)

    async def VerifyWitness(self, request: Any, context: Any) -> memory_pb2.VerifyWitnessReply:
        self.witness_asked.append(request)
        return memory_pb2.VerifyWitnessReply(entries=3, broken_at=3, broken_id="r3", problem="entry 3 is missing")

    async def PutSession(self, request: memory_pb2.PutSessionRequest, context: Any) -> memory_pb2.PutSessionReply:
        self._here()
        if request.session.session_id in self.refused:
            raise TooLarge("the session is too large")
        self.puts += 1
        self.bell.ring()
        if self.holding is not None:
            await self.holding.wait()
        self.sessions[request.session.tenant, request.session.session_id] = request.session
        self.bell.ring()
        return memory_pb2.PutSessionReply()

    async def GetSession(self, request: memory_pb2.GetSessionRequest, context: Any) -> memory_pb2.GetSessionReply:
        self._here()
        return memory_pb2.GetSessionReply(session=self.sessions.get((request.tenant, request.session_id)))

    async def ListSessions(self, request: memory_pb2.ListSessionsRequest, context: Any) -> memory_pb2.ListSessionsReply:
        self._here()
        found = [session for (tenant, _), session in self.sessions.items() if tenant == request.tenant]
        return memory_pb2.ListSessionsReply(sessions=found)

    async def SearchSessions(
        self, request: memory_pb2.SearchSessionsRequest, context: Any
    ) -> memory_pb2.SearchSessionsReply:
        """All of the tenant's, by id, with their last user turn and what follows it."""
        self._here()
        scored = []
        for (tenant, _), kept in sorted(self.sessions.items()):
            if tenant == request.tenant:
                session = memory_pb2.Session()
                session.CopyFrom(kept)
                del session.turns[: max(at for at, turn in enumerate(kept.turns) if turn.role == "user")]
                scored.append(memory_pb2.ScoredSession(session=session, similarity=0.75))
        return memory_pb2.SearchSessionsReply(sessions=scored[: request.limit])

    async def DeleteSession(self, request: memory_pb2.DeleteSessionRequest, context: Any) -> Any:
        self._here()
        found = self.sessions.pop((request.tenant, request.session_id), None) is not None
        return memory_pb2.DeleteSessionReply(found=found)


class FakeDocuments(documents_pb2_grpc.DocumentsServicer):
    """Keeps files and vector stores by tenant; every file is cut into its lines, each as near as it is long."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], documents_pb2.PutFileRequest] = {}
        self.stores: dict[tuple[str, str], documents_pb2.VectorStore] = {}
        self.attached: dict[tuple[str, str], list[str]] = {}
        self.searches: list[documents_pb2.SearchRequest] = []
        self.away = False
        self.hold: asyncio.Event | None = None
        """Where set, a search is answered once this is."""

    def _file(self, tenant: str, file_id: str) -> documents_pb2.File:
        if (tenant, file_id) not in self.files:
            raise NotFound(f"there is no file {file_id}", param="file_id")
        kept = self.files[tenant, file_id]
        return documents_pb2.File(
            id=file_id, name=kept.name, bytes=len(kept.content), created_ms=int(file_id[5:]), purpose=kept.purpose
        )

    def _store(self, tenant: str, store_id: str) -> documents_pb2.VectorStore:
        if (tenant, store_id) not in self.stores:
            raise NotFound(f"there is no vector store {store_id}", param="vector_store_id")
        return self.stores[tenant, store_id]

    async def PutFile(self, request: documents_pb2.PutFileRequest, context: Any) -> documents_pb2.File:
        id = f"file-{len(self.files)}"
        self.files[request.tenant, id] = request
        return self._file(request.tenant, id)

    async def GetFile(self, request: documents_pb2.FileRequest, context: Any) -> documents_pb2.File:
        return self._file(request.tenant, request.file_id)

    async def ReadFile(self, request: documents_pb2.FileRequest, context: Any) -> documents_pb2.FileContent:
        file = self._file(request.tenant, request.file_id)
        return documents_pb2.FileContent(file=file, content=self.files[request.tenant, file.id].content)

    async def ListFiles(self, request: documents_pb2.ListRequest, context: Any) -> documents_pb2.ListFilesReply:
        mine = [self._file(tenant, id) for tenant, id in reversed(self.files) if tenant == request.tenant]
        return documents_pb2.ListFilesReply(files=mine)

    async def DeleteFile(self, request: documents_pb2.FileRequest, context: Any) -> documents_pb2.DeleteReply:
        found = self.files.pop((request.tenant, request.file_id), None) is not None
        return documents_pb2.DeleteReply(found=found)

    async def PutStore(self, request: documents_pb2.PutStoreRequest, context: Any) -> documents_pb2.VectorStore:
        id = request.id or f"vs_{len(self.stores)}"
        store = documents_pb2.VectorStore(id=id, name=request.name, metadata=request.metadata)
        self.stores[request.tenant, id] = store
        return store

    async def GetStore(self, request: documents_pb2.StoreRequest, context: Any) -> documents_pb2.VectorStore:
        return self._store(request.tenant, request.store_id)

    async def ListStores(self, request: documents_pb2.ListRequest, context: Any) -> documents_pb2.ListStoresReply:
        mine = [store for (tenant, _), store in reversed(self.stores.items()) if tenant == request.tenant]
        return documents_pb2.ListStoresReply(stores=mine)

    async def DeleteStore(self, request: documents_pb2.StoreRequest, context: Any) -> documents_pb2.DeleteReply:
        found = self.stores.pop((request.tenant, request.store_id), None) is not None
        return documents_pb2.DeleteReply(found=found)

    def _attached(self, store_id: str, file_id: str) -> documents_pb2.Attached:
        return documents_pb2.Attached(store_id=store_id, file_id=file_id, status=documents_pb2.STATUS_COMPLETED)

    async def Attach(self, request: documents_pb2.AttachRequest, context: Any) -> documents_pb2.Attached:
        self._file(request.tenant, request.file_id)
        self._store(request.tenant, request.store_id).completed += 1
        self.attached.setdefault((request.tenant, request.store_id), []).append(request.file_id)
        return self._attached(request.store_id, request.file_id)

    async def GetAttached(self, request: documents_pb2.AttachedRequest, context: Any) -> documents_pb2.Attached:
        if request.file_id not in self.attached.get((request.tenant, request.store_id), ()):
            raise NotFound("it is not there", param="file_id")
        return self._attached(request.store_id, request.file_id)

    async def ListAttached(self, request: documents_pb2.StoreRequest, context: Any) -> documents_pb2.ListAttachedReply:
        files = self.attached.get((request.tenant, request.store_id), [])
        return documents_pb2.ListAttachedReply(files=[self._attached(request.store_id, file) for file in files])

    async def Detach(self, request: documents_pb2.AttachedRequest, context: Any) -> documents_pb2.DeleteReply:
        files = self.attached.get((request.tenant, request.store_id), [])
        found = request.file_id in files
        if found:
            files.remove(request.file_id)
        return documents_pb2.DeleteReply(found=found)

    async def Search(self, request: documents_pb2.SearchRequest, context: Any) -> documents_pb2.SearchReply:
        self.searches.append(request)
        if self.away:
            raise Unavailable("memory is away")
        if self.hold is not None:
            await self.hold.wait()
        chunks = []
        for store_id in request.store_ids:
            self._store(request.tenant, store_id)
            for file_id in self.attached.get((request.tenant, store_id), []):
                kept = self.files[request.tenant, file_id]
                text, start = kept.content.decode(), 0
                for index, line in enumerate(text.split("\n")):
                    chunks.append(
                        documents_pb2.Chunk(
                            store_id=store_id, file_id=file_id, file_name=kept.name, index=index, text=line,
                            start=start, end=start + len(line), score=len(line) / 64,
                        )
                    )  # fmt: skip
                    start += len(line) + 1
        chunks = [chunk for chunk in chunks if chunk.score >= request.score_threshold]
        chunks.sort(key=lambda chunk: -chunk.score)
        return documents_pb2.SearchReply(
            chunks=chunks[: request.limit or 10], embedding=[0.5, 0.5], embedding_ms=2, retrieval_ms=3
        )


class FakeLearner(learner_pb2_grpc.LearnerServicer):
    """Keeps trajectories; knows the response ids it has seen."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.trajectories: list[learner_pb2.Trajectory] = []
        self.ratings: list[inference_pb2.FeedbackRequest] = []

    async def Record(self, request: learner_pb2.RecordRequest, context: Any) -> learner_pb2.RecordReply:
        self.trajectories.extend(request.trajectories)
        self.bell.ring()
        return learner_pb2.RecordReply()

    async def Feedback(self, request: inference_pb2.FeedbackRequest, context: Any) -> inference_pb2.FeedbackReply:
        self.ratings.append(request)
        return inference_pb2.FeedbackReply(found=any(t.id == request.response_id for t in self.trajectories))


class FakeController:
    """Says that it loads what can be asked for, and knows what was."""

    def __init__(self) -> None:
        self.models: dict[str, inference_pb2.ServedModel] = {}

    async def listed(self) -> list[inference_pb2.ServedModel]:
        return list(self.models.values())

    async def load(self, request: inference_pb2.LoadModelRequest) -> inference_pb2.ServedModel:
        model = model_asked(request, Config())
        if model.served_name in self.models:
            raise taken(model.served_name)
        check_replicas(model.replicas)
        replicas = [inference_pb2.ServedReplica(id=f"{model.served_name}-0", state="loading", bytes=model.threads)]
        row = inference_pb2.ServedModel(
            id=model.served_name, model=model.model, source="api", state="loading", replicas=replicas * model.replicas
        )
        self.models[row.id] = row
        return row

    async def scale(self, name: str, replicas: int) -> inference_pb2.ServedModel:
        check_replicas(replicas)
        if name not in self.models:
            raise unknown(name, list(self.models))
        row = self.models[name]
        del row.replicas[replicas:]
        return row

    async def unload(self, name: str, timeout_s: float) -> inference_pb2.ServedModel:
        check_timeout(timeout_s)
        if name not in self.models:
            raise unknown(name, list(self.models))
        return self.models.pop(name)


class World:
    """A gateway and the fakes behind it."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.until = self.bell.until
        self.router, self.memory, self.learner = FakeRouter(self.bell), FakeMemory(self.bell), FakeLearner(self.bell)
        self.semantic, self.cost, self.documents = FakeSemantic(), FakeCost(), FakeDocuments()
        self.telemetry = Telemetry(service="gateway")
        self.controller = FakeController()
        self.servers: dict[str, Server] = {}
        self.channels: list[Any] = []
        self.clients: list[httpx.AsyncClient] = []
        self.gateway: Gateway | None = None
        self.stubs: list[Any] = []

    async def serve(self, name: str, add: Any, servicer: Any) -> str:
        """Serve a fake; returns its address."""
        server = Server(f"{name}-{next(_names)}", [(add, servicer)])
        self.servers[name] = server
        return (await server.start())[0]

    async def replica(self, replica_id: str = "tiny-0", model: str = "tiny", **options: Any) -> FakeScheduler:
        """Start a scheduler that the router knows."""
        scheduler = FakeScheduler(replica_id, model, **options)
        address = await self.serve(replica_id, scheduler_pb2_grpc.add_SchedulerServicer_to_server, scheduler)
        self.router.replicas[replica_id] = (model, [address])
        return scheduler

    async def start(self, tools: ToolsConfig | None = None, **settings: Any) -> Gateway:
        """Start the gateway on ports the system chooses; again for a restart of it alone."""
        if not self.stubs:
            await self._serve_actors()
        defaults = {"port": 0, "grpc_port": 0, "record_delay_s": 0.01, "failover_wait_s": 5, "table_refresh_s": 0.05}
        config = GatewayConfig(**(defaults | settings))
        self.gateway = Gateway(
            config, *self.stubs, self.telemetry, tools=tools or ToolsConfig(), controller=self.controller
        )
        await self.gateway.start()
        return self.gateway

    async def _serve_actors(self) -> None:
        for name, add, stub, servicer in (
            ("router", router_pb2_grpc.add_RouterServicer_to_server, router_pb2_grpc.RouterStub, self.router),
            ("memory", memory_pb2_grpc.add_MemoryServicer_to_server, memory_pb2_grpc.MemoryStub, self.memory),
            ("learner", learner_pb2_grpc.add_LearnerServicer_to_server, learner_pb2_grpc.LearnerStub, self.learner),
            ("semantic", router_pb2_grpc.add_SemanticServicer_to_server, router_pb2_grpc.SemanticStub, self.semantic),
            ("cost", router_pb2_grpc.add_CostServicer_to_server, router_pb2_grpc.CostStub, self.cost),
            (
                "documents",
                documents_pb2_grpc.add_DocumentsServicer_to_server,
                documents_pb2_grpc.DocumentsStub,
                self.documents,
            ),
        ):
            channel = connect(await self.serve(name, add, servicer))
            self.channels.append(channel)
            self.stubs.append(stub(channel))

    @property
    def url(self) -> str:
        assert self.gateway
        return self.gateway.addresses.http

    def client(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client of the gateway."""
        client = httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False, **options)
        self.clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self.clients:
            await client.aclose()
        if self.gateway:
            await self.gateway.stop()
        for channel in self.channels:
            await channel.close()
        for server in self.servers.values():
            await server.stop(0)


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    """Everything but replicas; start the gateway with `await world.start()`."""
    world = World()
    yield world
    await world.stop()


@pytest.fixture
def tiny() -> Vocabulary:
    """The byte-level vocabulary."""
    return Vocabulary.from_message(byte_vocabulary())


@pytest.fixture
def make_vocabulary() -> Callable[..., worker_pb2.Vocabulary]:
    """byte_vocabulary(template, bos=)."""
    return byte_vocabulary
