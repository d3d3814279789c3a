"""What the gateway knows of each replica: a stub to its scheduler, its model, its vocabulary.

A vocabulary comes from a replica and is kept under the digest of its bytes, so replicas of one model share it. It is
megabytes long and sent only to those who do not have it: a restarted replica costs one small call.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

from actors.base.channel import Channel, connect
from actors.base.errors import Unavailable
from actors.base.vocabulary import Vocabulary, digest_of
from cluster.gateway.chat import ChatTemplate
from cluster.gateway.config import GatewayConfig
from cluster.gateway.tools.registry import FORMATS, format_of
from cluster.gateway.tools.template import ToolUse, tool_use
from protos.gen import router_pb2, scheduler_pb2, worker_pb2
from protos.gen.scheduler_pb2_grpc import SchedulerStub

VIEW_TTL_S = 60.0
"""After this a replica is asked again, in case it came back as another under the same epoch."""
VOCABULARIES_KEPT = 16
REPLICAS_KEPT = 1024


@dataclass(frozen=True)
class ModelView:
    """A model as a gateway needs it: text to tokens and back, and how many tokens it takes."""

    model: worker_pb2.ModelInfo
    vocabulary: Vocabulary
    config: GatewayConfig

    @cached_property
    def template(self) -> ChatTemplate:
        """Raises InvalidArgument where the model has none that works."""
        config = self.config
        return ChatTemplate(self.vocabulary, timeout_s=config.template_timeout_s, max_chars=config.template_max_chars)

    @cached_property
    def tool_use(self) -> ToolUse:
        """How the model's conversations have tools. Raises InvalidArgument as template does."""
        named = self.config.tool_formats.get(self.model.id)
        format = FORMATS[named] if named else format_of(self.template.source)
        return tool_use(self.template.render, format)

    def same_tokens(self, other: "ModelView") -> bool:
        """Whether a stream of one may go on with the other: the same weights and the same tokens."""
        return self.vocabulary is other.vocabulary and self.model.revision == other.model.revision


@dataclass
class _Known:
    epoch: int
    addresses: tuple[str, ...]
    until: float
    view: asyncio.Task[ModelView]


class Catalog:
    """Stubs and views of replicas, found by what the router says of them."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._channels: OrderedDict[tuple[str, ...], Channel] = OrderedDict()
        self._views: OrderedDict[str, _Known] = OrderedDict()
        self._vocabularies: OrderedDict[bytes, Vocabulary] = OrderedDict()

    def scheduler(self, candidate: router_pb2.Candidate) -> SchedulerStub:
        """The candidate's scheduler, over the cheapest way there is from here."""
        addresses = tuple(candidate.addresses)
        channel = self._channels.get(addresses)
        if channel is None:
            channel = self._channels[addresses] = connect(list(addresses))
        self._channels.move_to_end(addresses)
        return SchedulerStub(channel)

    async def view(self, candidate: router_pb2.Candidate) -> ModelView:
        """The candidate's model. Raises Unavailable where it cannot say."""
        addresses, now = tuple(candidate.addresses), time.monotonic()
        known = self._views.get(candidate.replica_id)
        if known is None or (known.epoch, known.addresses) != (candidate.epoch, addresses) or now > known.until:
            view = asyncio.create_task(self._describe(candidate))
            known = _Known(candidate.epoch, addresses, now + VIEW_TTL_S, view)
            self._views[candidate.replica_id] = known
            await self._trim()
        try:
            return await asyncio.shield(known.view)
        except BaseException:
            if known.view.done():
                self.forget(candidate.replica_id)
            raise

    def forget(self, replica_id: str) -> None:
        """The replica failed: ask again before using what is known of it."""
        self._views.pop(replica_id, None)

    async def close(self) -> None:
        """Close every channel."""
        for known in self._views.values():
            known.view.cancel()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self._views.clear()

    async def _describe(self, candidate: router_pb2.Candidate) -> ModelView:
        reply = await self.scheduler(candidate).Describe(
            scheduler_pb2.DescribeRequest(known_vocabularies=self._vocabularies), timeout=self._config.route_timeout_s
        )
        digest = reply.vocabulary_digest
        vocabulary = self._vocabularies.get(digest)
        if vocabulary is None:
            if not reply.vocabulary.tokenizer_json:
                raise Unavailable(f"replica {candidate.replica_id} sent no vocabulary")
            # A digest that is not of these bytes would let one replica speak for the vocabularies of others.
            digest = digest_of(reply.vocabulary)
            built = await asyncio.to_thread(Vocabulary.from_message, reply.vocabulary)
            vocabulary = self._vocabularies.setdefault(digest, built)
        self._vocabularies.move_to_end(digest)
        while len(self._vocabularies) > VOCABULARIES_KEPT:
            self._vocabularies.popitem(last=False)
        return ModelView(reply.model, vocabulary, self._config)

    async def _trim(self) -> None:
        """Let go of the replicas longest unused."""
        while len(self._views) > REPLICAS_KEPT:
            self._views.popitem(last=False)
        while len(self._channels) > REPLICAS_KEPT:
            _, channel = self._channels.popitem(last=False)
            await channel.close()
