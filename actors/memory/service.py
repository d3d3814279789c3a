"""The memory actor's servicer: composes stores, and translates messages."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from actors.base.errors import InvalidArgument
from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.memory import limits, static_embedder
from actors.memory.config import MemoryConfig
from actors.memory.documents.service import Documents
from actors.memory.embedder import Embedder
from actors.memory.graph import Graph
from actors.memory.hot import HotTier
from actors.memory.ownership import Ownership, keyring_of
from actors.memory.patterns import Patterns
from actors.memory.policies import Policies
from actors.memory.procedures import Procedures
from actors.memory.quality.scorer import Scorer
from actors.memory.quotas import Quotas
from actors.memory.reranking import attention
from actors.memory.reranking.reranker import Reranker
from actors.memory.sessions import Sessions
from actors.memory.static_embedder import StaticEmbedder
from actors.memory.store import Collection, Schema
from actors.memory.stores import open_store, schemas
from actors.memory.witness_log.archive import Archive
from actors.memory.witness_log.files import WitnessFiles
from actors.memory.witness_log.log import WitnessLog
from actors.memory.witness_log.reading import Reader
from actors.memory.witness_log.retention import Retention
from actors.memory.witness_log.verification import verify
from protos.gen import memory_pb2, memory_pb2_grpc


class MemoryService(memory_pb2_grpc.MemoryServicer):
    """Sessions, witness log, policies, graph, embeddings and scores of a cluster. See memory.proto for each method."""

    def __init__(self, config: MemoryConfig, telemetry: Telemetry, embedder: Embedder | None = None) -> None:
        """`embedder` is one that several services share; without it the service loads and closes its own."""
        for name in ("directory", "key_file"):
            if getattr(config, name) is None:
                raise InvalidArgument(f"memory.{name} is not set; accepted: a path", param=f"memory.{name}")
        self._config = config
        self._telemetry = telemetry
        self._given = embedder
        self._opened = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Open everything; what opened is closed again where a later part fails."""
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack)
            self._opened = stack.pop_all()

    async def stop(self) -> None:
        """Write what is queued, then close."""
        await self._opened.aclose()

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        config, directory, key_file = self._config, self._config.directory, self._config.key_file
        assert directory is not None
        assert key_file is not None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.callback(Ownership(directory).release)
        keyring = keyring_of(directory, key_file)
        embedder = self._embedder = self._given or await asyncio.to_thread(Embedder, config.embedder)
        if self._given is None:
            stack.callback(embedder.close)
        installed = static_embedder.package()
        self._fast = StaticEmbedder(installed) if installed is not None else None
        if self._fast is not None:
            stack.callback(self._fast.close)

        store = await asyncio.to_thread(open_store, config, config.store)
        stack.push_async_callback(asyncio.to_thread, store.close)

        async def collection(schema: Schema) -> Collection:
            opened = await asyncio.to_thread(store.collection, schema)
            stack.push_async_callback(asyncio.to_thread, opened.close)
            return opened

        wanted = schemas(embedder.width, embedder.model)
        self._kept = await collection(wanted.session)
        entries = await collection(wanted.witness)
        self._rules = await collection(wanted.policy)
        self.patterns = Patterns(await collection(wanted.patterns))
        nodes = await collection(wanted.graph)
        kept = await collection(wanted.procedures)
        self.procedures = Procedures(kept, keyring, embedder.embed_last, config.procedures)
        chunks = await collection(wanted.documents)
        # Last: whoever gets here owns the directory, and so the hot tier's server.
        hot = HotTier(config, directory, self._telemetry)
        stack.push_async_callback(hot.stop)
        await hot.start()
        self.hot = hot
        self.quotas = Quotas(hot)
        self.sessions = Sessions(config, self._kept, hot, keyring)
        self.sessions.start()
        stack.push_async_callback(self.sessions.stop)
        self.policies = Policies(self._rules)
        await self.policies.start()
        stack.push_async_callback(self.policies.stop)
        self.graph = Graph(config, hot, nodes)
        self.documents = Documents(config, chunks, keyring, embedder)
        await self.documents.start()
        stack.push_async_callback(self.documents.stop)
        if config.rerank:
            self.reranker = Reranker(self.graph, attention.load(), self.documents.nearest, self._telemetry)
            self.documents.rank_by(self.reranker)
            stack.push_async_callback(self.reranker.stop)
        self.scorer = Scorer(config, embedder.embed_last, embedder.width, self._telemetry)
        await self._open_witness(stack, entries, keyring, directory)

    async def _open_witness(
        self, stack: contextlib.AsyncExitStack, entries: Collection, keyring: Keyring, directory: Path
    ) -> None:
        config, embedder = self._config, self._embedder
        self._entries, self._files = entries, WitnessFiles(directory, keyring, config.witness_heads_file)
        self._archive = await asyncio.to_thread(Archive, directory / "witness-archive", keyring)
        self.witness = WitnessLog(config, entries, embedder.embed_last, self._files, self._telemetry)
        self.reader = Reader(entries, self._archive, self._files, embedder.embed)
        self.retention = Retention(
            config, entries, self._archive, self._files, self.witness.embedding.lock, self._telemetry
        )
        self.witness.start()
        stack.push_async_callback(self.witness.stop)
        self.retention.start()
        stack.push_async_callback(self.retention.stop)

    async def Embed(self, request: memory_pb2.EmbedRequest, context: Any) -> memory_pb2.EmbedReply:
        """Unit vectors of texts."""
        own = self._embedder
        if self._fast is not None and request.model == self._fast.model:
            vectors, tokens = await self._fast.embed(request.texts, request.dimensions)
        elif request.model not in ("", own.model):
            there = ", ".join(self._embedders())
            raise InvalidArgument(f"there is no embedder {request.model!r}; accepted: {there}", param="model")
        elif request.dimensions not in (0, own.width):
            raise InvalidArgument(
                f"dimensions is {request.dimensions}; accepted of {own.model}: {own.width}", param="dimensions"
            )
        else:
            vectors, tokens = await own.embed(request.texts)
        # A list, for protobuf takes seven times as long over an array.
        values = vectors.ravel().tolist()
        return memory_pb2.EmbedReply(
            model=request.model or own.model, values=values, width=vectors.shape[1], prompt_tokens=tokens
        )

    def _embedders(self) -> list[str]:
        return [self._embedder.model, *([self._fast.model] if self._fast is not None else [])]

    async def Score(self, request: memory_pb2.ScoreRequest, context: Any) -> memory_pb2.ScoreReply:
        """How good answers are."""
        return memory_pb2.ScoreReply(qualities=await self.scorer.score(request.answers))

    async def PutSession(self, request: memory_pb2.PutSessionRequest, context: Any) -> memory_pb2.PutSessionReply:
        """Replace a session."""
        await self.sessions.put(request.session)
        return memory_pb2.PutSessionReply()

    async def GetSession(self, request: memory_pb2.GetSessionRequest, context: Any) -> memory_pb2.GetSessionReply:
        """A tenant's session, or nothing."""
        session = await self.sessions.get(request.tenant, request.session_id)
        return memory_pb2.GetSessionReply(session=session)

    async def ListSessions(self, request: memory_pb2.ListSessionsRequest, context: Any) -> memory_pb2.ListSessionsReply:
        """A tenant's sessions, most recent first."""
        found = await self.sessions.list(request.tenant, limits.listed(request.limit, 100))
        return memory_pb2.ListSessionsReply(sessions=found)

    async def SearchSessions(
        self, request: memory_pb2.SearchSessionsRequest, context: Any
    ) -> memory_pb2.SearchSessionsReply:
        """A tenant's sessions nearest to an embedding."""
        limit = limits.listed(request.limit, 10)
        return memory_pb2.SearchSessionsReply(
            sessions=await self.sessions.nearest(request.tenant, request.embedding, limit)
        )

    async def DeleteSession(
        self, request: memory_pb2.DeleteSessionRequest, context: Any
    ) -> memory_pb2.DeleteSessionReply:
        """Forget one."""
        return memory_pb2.DeleteSessionReply(found=await self.sessions.delete(request.tenant, request.session_id))

    async def AppendWitness(
        self, request: memory_pb2.AppendWitnessRequest, context: Any
    ) -> memory_pb2.AppendWitnessReply:
        """Queue entries; never waits for room, and for their being written only where asked."""
        dropped = self.witness.append(request.entries)
        if request.wait:
            # Written at once: whoever waits sends nothing meanwhile that a batch could wait for.
            await self.witness.flush()
        return memory_pb2.AppendWitnessReply(dropped=dropped)

    async def QueryWitness(self, request: memory_pb2.QueryWitnessRequest, context: Any) -> memory_pb2.QueryWitnessReply:
        """Entries, newest first."""
        return memory_pb2.QueryWitnessReply(records=await self.reader.query(request))

    async def SimilarWitness(
        self, request: memory_pb2.SimilarWitnessRequest, context: Any
    ) -> memory_pb2.SimilarWitnessReply:
        """Failures like another."""
        return memory_pb2.SimilarWitnessReply(found=await self.reader.similar(request))

    async def SlowWitness(self, request: memory_pb2.SlowWitnessRequest, context: Any) -> memory_pb2.SlowWitnessReply:
        """Latency spikes."""
        return await self.reader.slow(request)

    async def WitnessStats(self, request: memory_pb2.WitnessStatsRequest, context: Any) -> memory_pb2.WitnessStatsReply:
        """Aggregates and percentiles."""
        return await self.reader.stats(request)

    async def VerifyWitness(
        self, request: memory_pb2.VerifyWitnessRequest, context: Any
    ) -> memory_pb2.VerifyWitnessReply:
        """Check the chain."""
        await self.witness.flush()
        return await asyncio.to_thread(verify, self._entries, self._archive, self._files, self.witness.head)

    async def PutPolicy(self, request: memory_pb2.PutPolicyRequest, context: Any) -> memory_pb2.PutPolicyReply:
        """Write the next version of a policy."""
        return memory_pb2.PutPolicyReply(version=await self.policies.put(request.policy))

    async def DeletePolicy(self, request: memory_pb2.DeletePolicyRequest, context: Any) -> memory_pb2.DeletePolicyReply:
        """Forget one."""
        return memory_pb2.DeletePolicyReply(found=await self.policies.delete(request.id))

    async def SearchPolicies(
        self, request: memory_pb2.SearchPoliciesRequest, context: Any
    ) -> memory_pb2.SearchPoliciesReply:
        """By type, id and similarity."""
        found = await self.policies.search(
            request.type, request.id, request.embedding, limits.listed(request.limit, 10)
        )
        scored = [memory_pb2.ScoredPolicy(policy=policy, similarity=similarity) for policy, similarity in found]
        return memory_pb2.SearchPoliciesReply(policies=scored)

    async def WatchPolicies(
        self, request: memory_pb2.WatchPoliciesRequest, context: Any
    ) -> AsyncIterator[memory_pb2.Policy]:
        """All, then every change."""
        async for policy in self.policies.watch(request.types):
            yield policy

    async def PutPatterns(self, request: memory_pb2.PutPatternsRequest, context: Any) -> memory_pb2.PutPatternsReply:
        """Insert or replace examples of named routers."""
        await self.patterns.put(request.patterns)
        return memory_pb2.PutPatternsReply()

    async def DeletePatterns(
        self, request: memory_pb2.DeletePatternsRequest, context: Any
    ) -> memory_pb2.DeletePatternsReply:
        """Forget them."""
        await self.patterns.delete(request.patterns)
        return memory_pb2.DeletePatternsReply()

    async def ReadPatterns(
        self, request: memory_pb2.ReadPatternsRequest, context: Any
    ) -> AsyncIterator[memory_pb2.Patterns]:
        """All, some at a time."""
        async for page in self.patterns.read():
            yield memory_pb2.Patterns(patterns=page)

    async def PutProcedure(self, request: memory_pb2.PutProcedureRequest, context: Any) -> memory_pb2.PutProcedureReply:
        """Keep what worked."""
        await self.procedures.put(request.procedure, request.embedding)
        return memory_pb2.PutProcedureReply()

    async def SearchProcedures(
        self, request: memory_pb2.SearchProceduresRequest, context: Any
    ) -> memory_pb2.SearchProceduresReply:
        """What worked for questions like one."""
        limit = limits.listed(request.limit, 10)
        found = await self.procedures.search(request.tenant, request.embedding, limit, request.score_threshold)
        return memory_pb2.SearchProceduresReply(procedures=found)

    async def ListProcedures(
        self, request: memory_pb2.ListProceduresRequest, context: Any
    ) -> memory_pb2.ListProceduresReply:
        """A tenant's."""
        found = await self.procedures.list(request.tenant, limits.listed(request.limit, 100))
        return memory_pb2.ListProceduresReply(procedures=found)

    async def DeleteProcedure(
        self, request: memory_pb2.DeleteProcedureRequest, context: Any
    ) -> memory_pb2.DeleteProcedureReply:
        """Forget one."""
        return memory_pb2.DeleteProcedureReply(found=await self.procedures.delete(request.tenant, request.id))

    async def CreditProcedures(
        self, request: memory_pb2.CreditProceduresRequest, context: Any
    ) -> memory_pb2.CreditProceduresReply:
        """They were used, well or badly."""
        outcome = request.outcome if request.HasField("outcome") else None
        await self.procedures.credit(request.tenant, request.ids, outcome)
        return memory_pb2.CreditProceduresReply()

    async def UpdateEdges(self, request: memory_pb2.UpdateEdgesRequest, context: Any) -> memory_pb2.UpdateEdgesReply:
        """Strengthen or weaken edges; add nodes."""
        await self.graph.update(request)
        return memory_pb2.UpdateEdgesReply()

    async def Neighbours(self, request: memory_pb2.NeighboursRequest, context: Any) -> memory_pb2.NeighboursReply:
        """Heaviest edges of a node."""
        limit = limits.listed(request.limit, 100)
        found = await self.graph.edges.neighbours(request.tenant, request.node, request.kind, limit)
        return memory_pb2.NeighboursReply(edges=found)

    async def Neighbourhood(
        self, request: memory_pb2.NeighbourhoodRequest, context: Any
    ) -> memory_pb2.NeighbourhoodReply:
        """Two hops."""
        return await self.graph.neighbourhood(request)

    async def Status(self, request: memory_pb2.StatusRequest, context: Any) -> memory_pb2.StatusReply:
        """Counts."""
        return memory_pb2.StatusReply(
            embedder=self._embedder.model,
            embedders=self._embedders(),
            width=self._embedder.width,
            sessions=await asyncio.to_thread(self._kept.count),
            witness_entries=self.witness.head.next_sequence,
            witness_queued=self.witness.queued,
            witness_dropped=self.witness.dropped,
            witness_unembedded=self.witness.embedding.waiting,
            witness_archived=self._archive.entries,
            policies=await asyncio.to_thread(self._rules.count),
            edges=await self.graph.edges.count(),
            graph_nodes=self.graph.nodes.count,
        )
