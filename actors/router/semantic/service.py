"""The servicer of named routers. See router.proto for each method."""

import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.base.errors import InvalidArgument, TooLarge
from actors.base.telemetry import Telemetry
from actors.router.semantic.decisions import Decided, Decisions, Seen
from actors.router.semantic.model import Decision
from actors.router.semantic.outcomes import Outcomes
from actors.router.semantic.registry import ANYONE, Example, Registry, Router
from protos.gen import router_pb2, router_pb2_grpc
from protos.gen.memory_pb2_grpc import MemoryStub

MAX_NAME, MAX_TEXT = 256, 32 << 10
MAX_GIVEN = 20_000
"""Examples in one call."""
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)


class SemanticService(router_pb2_grpc.SemanticServicer):
    """Trains named routers and answers by them; memory embeds, and keeps what they are trained on."""

    def __init__(self, memory: MemoryStub, telemetry: Telemetry) -> None:
        self.registry = Registry(memory)
        self.outcomes = Outcomes(self.registry, telemetry)
        self._decisions = Decisions()
        self._seconds = telemetry.histogram(
            "russet_semantic_seconds", "Time to classify a text, its embedding given", SECONDS
        )

    async def start(self) -> None:
        """Begin to rebuild the routers that memory has."""
        await self.registry.start()
        self.outcomes.start()

    async def stop(self) -> None:
        """End."""
        await self.outcomes.stop()
        await self.registry.stop()

    async def TrainRouter(self, request: router_pb2.TrainRouterRequest, context: Any) -> router_pb2.RouterReply:
        """Replace the examples of a router, or make it."""
        return await self._put(request, replace=True)

    async def AddExamples(self, request: router_pb2.TrainRouterRequest, context: Any) -> router_pb2.RouterReply:
        """Add to them; a text that is there takes the new label."""
        return await self._put(request, replace=False)

    async def _put(self, request: router_pb2.TrainRouterRequest, *, replace: bool) -> router_pb2.RouterReply:
        _check_name(request.tenant, request.router)
        _check_examples(request.examples)
        given = [(each.text, each.label) for each in request.examples]
        router = await self.registry.put(request.tenant, request.router, given, replace=replace)
        return router_pb2.RouterReply(router=card(router, shipped=False), changed=len(dict(given)))

    async def PruneRouter(self, request: router_pb2.PruneRouterRequest, context: Any) -> router_pb2.RouterReply:
        """Remove examples by text or label, and those that repeat others."""
        _check_name(request.tenant, request.router)
        if not 0 <= request.merge_above <= 1:
            raise InvalidArgument(
                f"merge_above is {request.merge_above}; accepted is 0 to 1, 0 for none", param="merge_above"
            )
        before = self.registry.get(request.tenant, request.router)
        kept = pruned(before.examples, request.texts, request.labels, request.merge_above)
        router = before
        if len(kept) < len(before.examples):
            router = await self.registry.keep(request.tenant, request.router, kept)
        changed = len(before.examples) - len(kept)
        return router_pb2.RouterReply(router=card(router, shipped=False), changed=changed)

    async def DeleteRouter(self, request: router_pb2.DeleteRouterRequest, context: Any) -> router_pb2.DeleteRouterReply:
        """Forget a router."""
        _check_name(request.tenant, request.router)
        return router_pb2.DeleteRouterReply(found=await self.registry.delete(request.tenant, request.router))

    async def ListRouters(self, request: router_pb2.ListRoutersRequest, context: Any) -> router_pb2.ListRoutersReply:
        """The tenant's, and those that ship."""
        found = self.registry.list(request.tenant)
        return router_pb2.ListRoutersReply(routers=[card(router, shipped) for router, shipped in found])

    async def Classify(self, request: router_pb2.ClassifyRequest, context: Any) -> router_pb2.ClassifyReply:
        """Say which label a text belongs to."""
        name = f"route-{secrets.token_hex(12)}"
        decided, decision, router = await self.decide(name, request.tenant, request.router, request.text)
        (label, confidence), *others = decision.ranked
        threshold = router.classifier.fitted.threshold
        return router_pb2.ClassifyReply(
            label=label,
            confidence=confidence,
            in_scope=decision.scope >= threshold,
            scope_score=decision.scope,
            scope_threshold=threshold,
            alternatives=[router_pb2.LabelScore(label=name, confidence=share) for name, share in others],
            neighbours=[
                router_pb2.Near(text=near.text, label=near.label, similarity=near.cosine) for near in decided.near
            ],
            id=name,
        )

    async def decide(self, decision_id: str, tenant: str, name: str, text: str) -> tuple[Decided, Decision, Router]:
        """Classify, and remember it for its outcome where it has an id.

        Raises NotFound for a router that is not there, InvalidArgument or TooLarge for a text that cannot be
        classified, Unavailable where memory does not embed it.
        """
        _check_name(tenant, name)
        _check_text(text, "text")
        router = self.registry.get(tenant, name)
        asked = await self.registry.query(router, text)
        began = time.perf_counter()
        decision = router.classifier.classify(asked)
        self._seconds.observe(time.perf_counter() - began)
        near = tuple(_seen(router, near.place, near.cosine) for near in decision.near)
        decided = Decided(tenant, name, text, decision.ranked[0][0], near)
        if decision_id:
            self._decisions.keep(decision_id, decided)
        return decided, decision, router

    async def Outcome(self, request: router_pb2.OutcomeRequest, context: Any) -> router_pb2.OutcomeReply:
        """Learn from what became of a decision."""
        outcome = request.outcome if request.HasField("outcome") else None
        if outcome is None and not request.label:
            raise InvalidArgument("neither outcome nor label is given; accepted is either, or both", param="outcome")
        if outcome is not None and not 0 <= outcome <= 1:
            raise InvalidArgument(f"outcome is {outcome}; accepted is 0 (bad) to 1 (good)", param="outcome")
        _check_label(request.label, "label")
        decided = self._decisions.find(request.tenant, request.id)
        if decided is None:
            return router_pb2.OutcomeReply(found=False)
        return router_pb2.OutcomeReply(found=True, change=self.outcomes.take(decided, outcome, request.label))


def _seen(router: Router, place: int, cosine: float) -> Seen:
    example = router.examples[router.texts[place]]
    return Seen(example.text, example.label, cosine)


def card(router: Router, shipped: bool) -> router_pb2.RouterCard:
    """What a router is told by."""
    fitted = router.classifier.fitted
    return router_pb2.RouterCard(
        router=router.name,
        examples=len(router.examples),
        labels=fitted.labels,
        embedder=router.embedder,
        accuracy=fitted.quality.accuracy,
        calibration_error=fitted.quality.calibration_error,
        head_weight=fitted.head_weight,
        shipped=shipped,
    )


def pruned(
    examples: dict[str, Example], texts: Sequence[str], labels: Sequence[str], merge_above: float
) -> dict[str, Example]:
    """`examples` without those of `texts` and `labels`; of those left, one stands for all of its label near it.

    Near is a cosine of all views above `merge_above`; 0 merges none.
    """
    gone_texts, gone_labels = set(texts), set(labels)
    left = [each for each in examples.values() if each.text not in gone_texts and each.label not in gone_labels]
    if not merge_above:
        return {each.text: each for each in left}
    kept: dict[str, list[Example]] = {}
    for each in left:
        same = kept.setdefault(each.label, [])
        if same:
            near = np.stack([other.dense for other in same]).astype(np.float32) @ each.dense.astype(np.float32)
            length = math.sqrt(float(np.square(each.dense.astype(np.float32)).sum()))
            if float(near.max()) > merge_above * length * length:
                continue
        same.append(each)
    chosen = {each.text for same in kept.values() for each in same}
    return {each.text: each for each in left if each.text in chosen}


def _check_name(tenant: str, name: str) -> None:
    if tenant == ANYONE or len(tenant) > MAX_NAME:
        raise InvalidArgument(f"tenant {tenant[:40]!r}; accepted are up to {MAX_NAME} characters", param="tenant")
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or "/" in name:
        raise InvalidArgument(
            f"router {name[:80]!r}; accepted are 1 to {MAX_NAME} printable characters without /", param="router"
        )


def _check_text(text: str, what: str) -> None:
    if not text.strip():
        raise InvalidArgument(f"{what} is empty; accepted is a text with content", param=what)
    if len(text) > MAX_TEXT:
        raise TooLarge(f"{what} has {len(text)} characters; accepted are up to {MAX_TEXT}", param=what)


def _check_examples(examples: Sequence[router_pb2.Example]) -> None:
    if not 1 <= len(examples) <= MAX_GIVEN:
        raise InvalidArgument(
            f"{len(examples)} examples; accepted are 1 to {MAX_GIVEN} in a request: add the rest to them",
            param="examples",
        )
    for place, each in enumerate(examples):
        _check_text(each.text, f"examples[{place}].text")
        _check_label(each.label, f"examples[{place}].label")


def _check_label(label: str, what: str) -> None:
    if len(label) > MAX_NAME:
        raise InvalidArgument(f"{what} has {len(label)} characters; accepted are up to {MAX_NAME}", param=what)
