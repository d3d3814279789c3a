"""The memory actor's servicer: composes stores, and translates messages."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from actors.base.errors import InvalidArgument
from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.memory import policies, sessions, witness
from actors.memory.config import MemoryConfig
from actors.memory.edge import EdgeCollection
from actors.memory.embedder import Embedder
from actors.memory.graph import Graph
from actors.memory.hot import HotTier
from actors.memory.policies import Policies
from actors.memory.sessions import Sessions
from actors.memory.store import Schema
from actors.memory.witness import WitnessLog
from protos.gen import memory_pb2, memory_pb2_grpc


class MemoryService(memory_pb2_grpc.MemoryServicer):
    """Sessions, witness log, policies, graph and embeddings of a cluster. See memory.proto for each method."""

    def __init__(self, config: MemoryConfig, telemetry: Telemetry) -> None:
        if config.directory is None or config.key_file is None:
            raise InvalidArgument("memory.directory and memory.key_file must be set", param="memory.directory")
        self._config = config
        self._directory = config.directory
        self._key_file = config.key_file
        self._telemetry = telemetry
        self._hot = HotTier(config, config.directory)

    async def start(self) -> None:
        """Open everything; what opened is closed again where a later part fails."""
        config, directory = self._config, self._directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        keyring = Keyring.load_or_create(self._key_file)
        self._embedder = await asyncio.to_thread(Embedder, config.embedder)
        self._collections: list[EdgeCollection] = []
        try:
            await self._hot.start()
            kept = await asyncio.to_thread(self._open, "session", sessions.KEYWORDS, sessions.INTEGERS, ())
            entries = await asyncio.to_thread(self._open, "witness", witness.KEYWORDS, witness.INTEGERS, witness.FLOATS)
            rules = await asyncio.to_thread(self._open, "policy", policies.KEYWORDS, policies.INTEGERS, ())
        except BaseException:
            await self._close()
            raise
        self.sessions = Sessions(config, kept, self._hot, keyring)
        self.witness = WitnessLog(config, entries, self._embedder.embed, self._telemetry)
        self.policies = Policies(rules)
        self.graph = Graph(self._hot, config.similar_edges)
        self._kept, self._rules = kept, rules
        self.witness.start()

    async def stop(self) -> None:
        """Write what is queued, then close."""
        await self.witness.stop()
        await self._close()

    async def _close(self) -> None:
        for collection in self._collections:
            await asyncio.to_thread(collection.close)
        await self._hot.stop()
        self._embedder.close()

    def _open(
        self, name: str, keywords: tuple[str, ...], integers: tuple[str, ...], floats: tuple[str, ...]
    ) -> EdgeCollection:
        schema = Schema(name, self._embedder.width, self._embedder.model, keywords, integers, floats)
        collection = EdgeCollection(self._directory, schema, self._config)
        self._collections.append(collection)
        return collection

    async def Embed(self, request: memory_pb2.EmbedRequest, context: Any) -> memory_pb2.EmbedReply:
        """Unit vectors of texts."""
        vectors, tokens = await self._embedder.embed(request.texts)
        return memory_pb2.EmbedReply(
            model=self._embedder.model, values=vectors.ravel(), width=self._embedder.width, prompt_tokens=tokens
        )

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
        found = await self.sessions.list(request.tenant, request.limit or 100)
        return memory_pb2.ListSessionsReply(sessions=found)

    async def DeleteSession(
        self, request: memory_pb2.DeleteSessionRequest, context: Any
    ) -> memory_pb2.DeleteSessionReply:
        """Forget one."""
        return memory_pb2.DeleteSessionReply(found=await self.sessions.delete(request.tenant, request.session_id))

    async def AppendWitness(
        self, request: memory_pb2.AppendWitnessRequest, context: Any
    ) -> memory_pb2.AppendWitnessReply:
        """Queue entries; never waits."""
        return memory_pb2.AppendWitnessReply(dropped=self.witness.append(request.entries))

    async def QueryWitness(self, request: memory_pb2.QueryWitnessRequest, context: Any) -> memory_pb2.QueryWitnessReply:
        """Entries of a tenant."""
        return memory_pb2.QueryWitnessReply(records=await self.witness.query(request))

    async def VerifyWitness(
        self, request: memory_pb2.VerifyWitnessRequest, context: Any
    ) -> memory_pb2.VerifyWitnessReply:
        """Check the chain."""
        return await self.witness.verify()

    async def PutPolicy(self, request: memory_pb2.PutPolicyRequest, context: Any) -> memory_pb2.PutPolicyReply:
        """Write the next version of a policy."""
        return memory_pb2.PutPolicyReply(version=await self.policies.put(request.policy))

    async def SearchPolicies(
        self, request: memory_pb2.SearchPoliciesRequest, context: Any
    ) -> memory_pb2.SearchPoliciesReply:
        """By type, id and similarity."""
        found = await self.policies.search(request.type, request.id, request.embedding, request.limit or 10)
        scored = [memory_pb2.ScoredPolicy(policy=policy, similarity=similarity) for policy, similarity in found]
        return memory_pb2.SearchPoliciesReply(policies=scored)

    async def WatchPolicies(
        self, request: memory_pb2.WatchPoliciesRequest, context: Any
    ) -> AsyncIterator[memory_pb2.Policy]:
        """All, then every change."""
        async for policy in self.policies.watch(request.types):
            yield policy

    async def UpdateEdges(self, request: memory_pb2.UpdateEdgesRequest, context: Any) -> memory_pb2.UpdateEdgesReply:
        """Strengthen or weaken edges."""
        await self.graph.update(request.updates)
        return memory_pb2.UpdateEdgesReply()

    async def Neighbours(self, request: memory_pb2.NeighboursRequest, context: Any) -> memory_pb2.NeighboursReply:
        """Heaviest edges of a node."""
        return memory_pb2.NeighboursReply(
            edges=await self.graph.neighbours(request.node, request.kind, request.limit or 100)
        )

    async def Status(self, request: memory_pb2.StatusRequest, context: Any) -> memory_pb2.StatusReply:
        """Counts."""
        return memory_pb2.StatusReply(
            embedder=self._embedder.model,
            width=self._embedder.width,
            sessions=await asyncio.to_thread(self._kept.count),
            witness_entries=self.witness.head.next_sequence,
            witness_queued=self.witness.queued,
            witness_dropped=self.witness.dropped,
            policies=await asyncio.to_thread(self._rules.count),
            edges=await self.graph.count(),
        )
