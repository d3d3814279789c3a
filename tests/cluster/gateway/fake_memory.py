"""Memory, its documents, and the learner, which keep what they are given."""

import asyncio
from typing import Any

from actors.base.errors import InvalidArgument, NotFound, TooLarge, Unavailable
from actors.base.quota import Limits, Usage
from actors.memory.quotas import reply_of
from protos.gen import (
    documents_pb2,
    documents_pb2_grpc,
    inference_pb2,
    learner_pb2,
    learner_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    quotas_pb2,
    quotas_pb2_grpc,
)
from tests.cluster.gateway.fake_replica import Bell


class FakeMemory(memory_pb2_grpc.MemoryServicer):
    """Keeps what it is given; embeds a text as [length, 1]; an answer's quality is its length / 1024."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.entries: list[memory_pb2.WitnessEntry] = []
        self.sessions: dict[tuple[str, str], memory_pb2.Session] = {}
        """By tenant and id."""
        self.procedures: list[memory_pb2.Procedure] = []
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

    async def SearchProcedures(self, request: Any, context: Any) -> memory_pb2.SearchProceduresReply:
        self._here()
        found = [each for each in self.procedures if each.tenant == request.tenant][: request.limit]
        return memory_pb2.SearchProceduresReply(
            procedures=[memory_pb2.ScoredProcedure(procedure=each, similarity=0.75) for each in found]
        )

    async def ListProcedures(self, request: Any, context: Any) -> memory_pb2.ListProceduresReply:
        self._here()
        found = [each for each in self.procedures if each.tenant == request.tenant][: request.limit]
        return memory_pb2.ListProceduresReply(procedures=found)

    async def DeleteProcedure(self, request: Any, context: Any) -> memory_pb2.DeleteProcedureReply:
        before = len(self.procedures)
        asked = (request.tenant, request.id)
        self.procedures = [each for each in self.procedures if (each.tenant, each.id) != asked]
        return memory_pb2.DeleteProcedureReply(found=len(self.procedures) < before)

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


class FakeQuotas(quotas_pb2_grpc.QuotasServicer):
    """Counts as memory does, in a dictionary, by a clock that stands still."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.usage: dict[str, Usage] = {}
        self.settled: list[quotas_pb2.SettleRequest] = []
        self.now_s = 1e9
        self.away = False

    def _of(self, tenant: str) -> Usage:
        if self.away:
            raise Unavailable("memory is away")
        return self.usage.setdefault(tenant, Usage())

    async def Take(self, request: quotas_pb2.TakeRequest, context: Any) -> quotas_pb2.TakeReply:
        limits = _limits(request.limits)
        return reply_of(self._of(request.tenant).take(limits, request.request_id, self.now_s))

    async def Settle(self, request: quotas_pb2.SettleRequest, context: Any) -> quotas_pb2.SettleReply:
        limits = _limits(request.limits)
        self._of(request.tenant).settle(limits, request.request_id, request.tokens, self.now_s)
        self.settled.append(request)
        self.bell.ring()
        return quotas_pb2.SettleReply()


def _limits(given: quotas_pb2.Limits) -> Limits:
    return Limits(given.requests_per_minute, given.tokens_per_minute, given.tokens_per_day, given.concurrent)
