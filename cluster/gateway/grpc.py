"""The gRPC face: inference.proto's service over the same path as HTTP."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from actors.base.errors import TooLarge
from cluster.gateway.auth import Gate
from cluster.gateway.limits import check
from cluster.gateway.models import Models
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.requests import Caller, Requests
from protos.gen import inference_pb2, inference_pb2_grpc


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """See inference.proto for each method. A key travels in the metadata `authorization`, as in HTTP."""

    def __init__(self, requests: Requests, models: Models, gate: Gate) -> None:
        self._requests = requests
        self._models = models
        self._gate = gate

    async def Chat(self, request: inference_pb2.ChatRequest, context: Any) -> inference_pb2.Answer:
        """A whole answer."""
        return await self._answer(request, context)

    async def ChatStream(
        self, request: inference_pb2.ChatRequest, context: Any
    ) -> AsyncGenerator[inference_pb2.Chunk, None]:
        """An answer as it comes."""
        async with aclosing(self._chunks(request, context)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Complete(self, request: inference_pb2.CompleteRequest, context: Any) -> inference_pb2.Answer:
        """A whole continuation."""
        return await self._answer(request, context)

    async def CompleteStream(
        self, request: inference_pb2.CompleteRequest, context: Any
    ) -> AsyncGenerator[inference_pb2.Chunk, None]:
        """A continuation as it comes."""
        async with aclosing(self._chunks(request, context)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Embed(self, request: inference_pb2.EmbedRequest, context: Any) -> inference_pb2.EmbedReply:
        """Unit vectors."""
        self._admit(request, context)
        return await self._models.embed(request)

    async def ListModels(self, request: inference_pb2.ListModelsRequest, context: Any) -> inference_pb2.ListModelsReply:
        """Models that answer now."""
        self._admit(request, context)
        return inference_pb2.ListModelsReply(models=await self._models.cards())

    async def Feedback(self, request: inference_pb2.FeedbackRequest, context: Any) -> inference_pb2.FeedbackReply:
        """Rate an answer."""
        self._admit(request, context)
        check("rating", request.rating)
        return await self._requests.records.rate(request)

    async def ListSessions(
        self, request: inference_pb2.ListSessionsRequest, context: Any
    ) -> inference_pb2.ListSessionsReply:
        """The caller's."""
        tenant = self._admit(request, context).tenant
        return inference_pb2.ListSessionsReply(sessions=await self._requests.sessions.list(tenant, request.limit))

    async def GetSession(self, request: inference_pb2.GetSessionRequest, context: Any) -> inference_pb2.Session:
        """One of them."""
        tenant = self._admit(request, context).tenant
        return await self._requests.sessions.show(tenant, request.session_id)

    async def DeleteSession(
        self, request: inference_pb2.DeleteSessionRequest, context: Any
    ) -> inference_pb2.DeleteSessionReply:
        """Forget one."""
        tenant = self._admit(request, context).tenant
        found = await self._requests.sessions.delete(tenant, request.session_id)
        return inference_pb2.DeleteSessionReply(found=found)

    async def _answer(self, request: GenerateMessage, context: Any) -> inference_pb2.Answer:
        generation = self._requests.begin(request, self._admit(request, context))
        text = await generation.answer()
        return inference_pb2.Answer(
            id=generation.id,
            model=generation.model,
            text=text,
            finish_reason=generation.finish,
            usage=generation.usage,
            route=generation.route,
            kv=generation.kv,
            session_turns=generation.session_turns,
            logprobs=generation.logprobs,
        )

    async def _chunks(self, request: GenerateMessage, context: Any) -> AsyncGenerator[inference_pb2.Chunk, None]:
        generation = self._requests.begin(request, self._admit(request, context))
        routed = False
        told = 0
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                route = None if routed else generation.route
                routed = True
                logprobs = generation.logprobs[told:]
                told += len(logprobs)
                yield inference_pb2.Chunk(
                    id=generation.id, model=generation.model, delta=delta, route=route, logprobs=logprobs
                )
        yield inference_pb2.Chunk(
            id=generation.id,
            model=generation.model,
            finish_reason=generation.finish,
            usage=generation.usage,
            route=None if routed else generation.route,
            kv=generation.kv,
            session_turns=generation.session_turns,
            logprobs=generation.logprobs[told:],
        )

    def _admit(self, request: Any, context: Any) -> Caller:
        size, limit = request.ByteSize(), self._requests.config.max_body_bytes
        if size > limit:
            raise TooLarge(f"the request has {size} bytes; accepted are up to {limit}")
        metadata = dict(context.invocation_metadata() or ())
        return self._gate.admit(metadata.get("authorization"), metadata.get("x-russet-tenant"))
