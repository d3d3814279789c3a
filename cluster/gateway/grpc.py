"""The gRPC face: inference.proto's service over the same path as HTTP."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from actors.base.errors import InvalidArgument, TooLarge, Unauthenticated
from cluster.gateway.aliases import Aliases
from cluster.gateway.auth import Gate
from cluster.gateway.caller import Caller
from cluster.gateway.choices import Choices
from cluster.gateway.feedback import Feedback
from cluster.gateway.loading import Loading
from cluster.gateway.models import Models
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.quotas import Quotas
from cluster.gateway.recall.passages import without_texts
from cluster.gateway.requests import Requests
from cluster.gateway.server_tools import listed
from protos.gen import inference_pb2, inference_pb2_grpc


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """See inference.proto for each method. A key travels in the metadata `authorization`, as in HTTP."""

    def __init__(
        self,
        requests: Requests,
        models: Models,
        gate: Gate,
        quotas: Quotas,
        feedback: Feedback,
        aliases: Aliases,
        loading: Loading,
    ) -> None:
        self._requests = requests
        self._models = models
        self._gate = gate
        self._quotas = quotas
        self._feedback = feedback
        self._aliases = aliases
        self._loading = loading

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
        caller = await self._admit(request, context)
        reply = await self._models.embed(request)
        caller.spent.tokens += reply.prompt_tokens
        return reply

    async def ListModels(self, request: inference_pb2.ListModelsRequest, context: Any) -> inference_pb2.ListModelsReply:
        """Models that answer now."""
        await self._admit(request, context)
        return inference_pb2.ListModelsReply(models=await self._models.cards())

    async def Feedback(self, request: inference_pb2.FeedbackRequest, context: Any) -> inference_pb2.FeedbackReply:
        """Say how good an answer was, or a decision."""
        return await self._feedback.take(request, await self._admit(request, context))

    async def ListSessions(
        self, request: inference_pb2.ListSessionsRequest, context: Any
    ) -> inference_pb2.ListSessionsReply:
        """The caller's."""
        tenant = (await self._admit(request, context)).tenant
        return inference_pb2.ListSessionsReply(sessions=await self._requests.sessions.list(tenant, request.limit))

    async def GetSession(self, request: inference_pb2.GetSessionRequest, context: Any) -> inference_pb2.Session:
        """One of them."""
        tenant = (await self._admit(request, context)).tenant
        return await self._requests.sessions.show(tenant, request.session_id)

    async def DeleteSession(
        self, request: inference_pb2.DeleteSessionRequest, context: Any
    ) -> inference_pb2.DeleteSessionReply:
        """Forget one."""
        tenant = (await self._admit(request, context)).tenant
        found = await self._requests.sessions.delete(tenant, request.session_id)
        return inference_pb2.DeleteSessionReply(found=found)

    async def ListTools(self, request: inference_pb2.ListToolsRequest, context: Any) -> inference_pb2.ListToolsReply:
        """Those that the gateway itself can run."""
        await self._admit(request, context)
        return await listed(self._requests.tools)

    async def ListAliases(
        self, request: inference_pb2.ListAliasesRequest, context: Any
    ) -> inference_pb2.ListAliasesReply:
        """Names that lead to models."""
        aliases = await self._aliases.listed(await self._admit(request, context))
        return inference_pb2.ListAliasesReply(aliases=aliases)

    async def PutAlias(self, request: inference_pb2.PutAliasRequest, context: Any) -> inference_pb2.Alias:
        """Set one."""
        return await self._aliases.put(await self._admit(request, context), request.alias)

    async def DeleteAlias(
        self, request: inference_pb2.DeleteAliasRequest, context: Any
    ) -> inference_pb2.DeleteAliasReply:
        """Forget one that was put."""
        found = await self._aliases.delete(await self._admit(request, context), request.name)
        return inference_pb2.DeleteAliasReply(found=found)

    async def ListServed(self, request: inference_pb2.ListServedRequest, context: Any) -> inference_pb2.ListServedReply:
        """Every model, ready or not."""
        return inference_pb2.ListServedReply(models=await self._loading.listed(await self._admit(request, context)))

    async def LoadModel(self, request: inference_pb2.LoadModelRequest, context: Any) -> inference_pb2.ServedModel:
        """Begin to load one."""
        return await self._loading.load(await self._admit(request, context), request)

    async def ScaleModel(self, request: inference_pb2.ScaleModelRequest, context: Any) -> inference_pb2.ServedModel:
        """Give it another number of replicas."""
        return await self._loading.scale(await self._admit(request, context), request)

    async def UnloadModel(self, request: inference_pb2.UnloadModelRequest, context: Any) -> inference_pb2.ServedModel:
        """Begin to unload it."""
        return await self._loading.unload(await self._admit(request, context), request)

    async def _answer(self, request: GenerateMessage, context: Any) -> inference_pb2.Answer:
        choices = Choices(self._requests, request, await self._admit(request, context))
        answers = [
            inference_pb2.AnswerChoice(
                text="".join(each.text),
                finish_reason=each.finish,
                logprobs=each.logprobs if choices.tells_logprobs else (),
                tool_calls=each.tool_calls,
                tool_runs=each.tool_runs,
            )
            for each in await choices.answer()
        ]
        first = choices.first
        return inference_pb2.Answer(
            id=first.id,
            model=first.model,
            text=answers[0].text,
            finish_reason=answers[0].finish_reason,
            usage=choices.usage,
            route=first.route,
            kv=first.kv,
            session_turns=first.session_turns,
            logprobs=answers[0].logprobs,
            others=answers[1:],
            reflection=first.reflection,
            retrieval=without_texts(first.retrieval),
            tool_calls=answers[0].tool_calls,
            tool_runs=answers[0].tool_runs,
        )

    async def _chunks(self, request: GenerateMessage, context: Any) -> AsyncGenerator[inference_pb2.Chunk, None]:
        if request.decoding.best_of > max(request.decoding.n, 1):
            raise InvalidArgument(
                f"best_of is {request.decoding.best_of} in a stream; accepted is up to n: which are best is known last",
                param="best_of",
            )
        choices = Choices(self._requests, request, await self._admit(request, context))
        first = choices.first
        told = [0] * len(choices.generations)
        left, routed = len(told), False
        async with aclosing(choices.pieces()) as pieces:
            async for index, delta, until in pieces:
                generation = choices.generations[index]
                chunk = inference_pb2.Chunk(
                    id=first.id,
                    model=first.model,
                    delta=delta if isinstance(delta, str) else "",
                    tool_calls=[delta] if isinstance(delta, inference_pb2.ToolCallDelta) else (),
                    route=None if routed else first.route,
                    retrieval=None if routed else without_texts(first.retrieval),
                    logprobs=generation.logprobs[told[index] : until],
                    index=index,
                )
                routed, told[index] = True, until
                if delta is None:
                    chunk.finish_reason = generation.finish
                    chunk.tool_runs.extend(generation.tool_runs)
                    left -= 1
                if not left:
                    chunk.usage.CopyFrom(choices.usage)
                    chunk.kv.CopyFrom(first.kv)
                    chunk.session_turns = first.session_turns
                    if first.reflection is not None:
                        chunk.reflection.CopyFrom(first.reflection)
                yield chunk

    async def _admit(self, request: Any, context: Any) -> Caller:
        return await admitted(request, context, self._gate, self._quotas, self._requests.config.max_body_bytes)


async def admitted(request: Any, context: Any, gate: Gate, quotas: Quotas, limit: int) -> Caller:
    """Who asks; what the call used is settled when it ends.

    Raises Unauthenticated, TooLarge for a request of more than `limit` bytes, RateLimited.
    """
    if (size := request.ByteSize()) > limit:
        raise TooLarge(f"the request has {size} bytes; accepted are up to {limit}")
    metadata = context.invocation_metadata() or ()
    if sum(key == "authorization" for key, _ in metadata) > 1:
        raise Unauthenticated("there are several authorization entries in the metadata; accepted is one")
    named = dict(metadata)
    caller = gate.admit(named.get("authorization"), named.get("x-russet-tenant"))
    if (grant := await quotas.take(caller)) is not None:
        context.add_done_callback(lambda _: grant.settle())
        context.set_trailing_metadata([(name.decode(), value.decode()) for name, value in grant.headers])
    return caller
