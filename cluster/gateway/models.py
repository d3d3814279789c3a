"""Which models answer now, and the embedders among them."""

import time

from actors.base.errors import InvalidArgument, RussetError
from cluster.gateway.errors import ModelNotFound
from cluster.gateway.limits import MAX_EMBED_TEXTS
from cluster.gateway.routes import Routes
from protos.gen import inference_pb2, memory_pb2, router_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

EMBED_TIMEOUT_S = 120.0
STATUS_TTL_S = 30.0


class Models:
    """Lists models and embeds texts."""

    def __init__(self, routes: Routes, memory: MemoryStub) -> None:
        self._routes = routes
        self._memory = memory
        self._embedders: list[str] = []
        self._asked_s = -STATUS_TTL_S
        self._since_s = int(time.time())

    async def cards(self) -> list[inference_pb2.ModelCard]:
        """Chat models with a ready replica, the default first; then aliases, and the embedders if memory is there."""
        cards = cards_of(await self._routes.refresh())
        try:
            embedders = await self._embedder_names()
        except RussetError:
            return cards
        more = [
            inference_pb2.ModelCard(id=embedder, kind="embedding", created_s=self._since_s, replicas=1)
            for embedder in embedders
        ]
        return [*cards, *more]

    async def card(self, model: str) -> inference_pb2.ModelCard:
        """One of them. Raises ModelNotFound."""
        cards = await self.cards()
        for card in cards:
            if card.id == model:
                return card
        raise _unknown(model, [card.id for card in cards])

    async def embed(self, request: inference_pb2.EmbedRequest) -> inference_pb2.EmbedReply:
        """Unit vectors of texts. Raises InvalidArgument, ModelNotFound, Unavailable where memory is away."""
        texts = request.texts
        if not 1 <= len(texts) <= MAX_EMBED_TEXTS:
            raise InvalidArgument(f"input has {len(texts)} texts; accepted are 1 to {MAX_EMBED_TEXTS}", param="input")
        for index, text in enumerate(texts):
            if not text:
                raise InvalidArgument(f"input[{index}] is empty; accepted are texts with content", param="input")
        if request.HasField("dimensions") and not request.dimensions:
            raise InvalidArgument("dimensions is 0; accepted are numbers from 1", param="dimensions")
        embedders = await self._embedder_names()
        wanted = embedders[0] if request.model in ("", "auto") else request.model
        chosen = next((each for each in embedders if each.lower() == wanted.lower()), None)
        if chosen is None:
            raise _unknown(wanted, embedders)
        asked = memory_pb2.EmbedRequest(texts=texts, model=chosen, dimensions=request.dimensions)
        reply = await self._memory.Embed(asked, timeout=EMBED_TIMEOUT_S)
        vectors = [
            inference_pb2.Vector(values=reply.values[start : start + reply.width])
            for start in range(0, len(texts) * reply.width, reply.width)
        ]
        return inference_pb2.EmbedReply(model=reply.model, vectors=vectors, prompt_tokens=reply.prompt_tokens)

    async def _embedder_names(self) -> list[str]:
        """The one that is meant where none is named comes first."""
        if time.monotonic() - self._asked_s > STATUS_TTL_S:
            status = await self._memory.Status(memory_pb2.StatusRequest(), timeout=2.0)
            self._embedders, self._asked_s = list(status.embedders), time.monotonic()
        return self._embedders


def cards_of(table: router_pb2.ListReplicasReply) -> list[inference_pb2.ModelCard]:
    """A card for each model with an available replica, the default first, then by name; then one for each alias.

    An alias is as wide as its narrowest model. Where it has a model's name, it is in the place of that.
    """
    cards: dict[str, inference_pb2.ModelCard] = {}
    aliases: dict[str, inference_pb2.ModelCard] = {}
    for replica in table.replicas:
        if not replica.available:
            continue
        state = replica.state
        card = cards.setdefault(
            state.model,
            inference_pb2.ModelCard(
                id=state.model, kind="chat", context_length=state.context_length, created_s=replica.since_s
            ),
        )
        card.replicas += 1
        card.created_s = min(card.created_s, replica.since_s)
        card.context_length = min(card.context_length, state.context_length)
    for alias in table.aliases:
        there = [cards[target.model] for target in alias.targets if target.model in cards]
        total = sum(target.weight for target in alias.targets)
        if there:
            aliases[alias.name] = inference_pb2.ModelCard(
                id=alias.name,
                kind="alias",
                context_length=min(card.context_length for card in there),
                created_s=min(card.created_s for card in there),
                replicas=sum(card.replicas for card in there),
                models={target.model: target.weight / total for target in alias.targets},
            )
    every = (cards | aliases).values()
    return sorted(every, key=lambda card: (card.id != table.default_model, card.id not in cards, card.id))


def _unknown(model: str, known: list[str]) -> ModelNotFound:
    there = ", ".join(known) or "none yet"
    return ModelNotFound(f"there is no model {model[:80]!r} for this; there are: {there}", param="model")
