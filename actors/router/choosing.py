"""Which model answers where the client leaves that to the router.

    auto          the cost router, among the models that are served: the cheapest that is likely enough
    router:NAME   the tenant's named router of that name, whose labels are models (or aliases of them)

Either asks memory for the question's embedding, for a bounded time, before the first token and never after it. What
cannot be decided (memory is away, the text is out of scope) leads to the default model, and says so.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import DeadlineExceeded, NotFound, Unavailable
from actors.base.model_names import NAMED
from actors.router.fastgrnn.decision import Ask, Decision, decide
from actors.router.fastgrnn.features import Constraints, Served
from actors.router.fastgrnn.registry import Registry as CostRouters
from actors.router.semantic.decisions import Seen
from actors.router.semantic.service import SemanticService
from protos.gen import router_pb2

EMBED_S = 0.25
"""Longest wait for memory: MiniLM takes some milliseconds, and a question is worth no more."""
FORM_ALONE = "without its embedding, by its form alone"
KEPT = 16_384
"""Requests whose choice is remembered, and sessions whose state is."""


class Chosen(NamedTuple):
    """A model, or an alias that leads to one, and why."""

    model: str
    reasons: tuple[str, ...]
    probabilities: tuple[tuple[str, float], ...] = ()
    """Of models or labels, the likeliest first."""
    confidence: float = 0.0
    temperature: float | None = None
    top_p: float | None = None
    """What sampling looks right to the cost router: told, not done."""
    context: int = 0
    """Tokens of prompt and answer to make room for; 0 where that is not predicted."""
    router: str = ""
    """The named router that decided."""
    near: tuple[Seen, ...] = ()
    """Its examples near the text."""
    patterns: tuple[str, ...] = ()
    pattern: str = ""
    """Their ids, and that of the one that answers for the decision."""


class Question(NamedTuple):
    """A request as far as its model is chosen by it."""

    request_id: str
    asked: str
    tenant: str
    session_id: str
    text: str
    """Of the last user turn; empty where the prompt is none of text."""
    constraints: Constraints


class Chooser:
    """Chooses models. A request keeps its choice however often it is routed; a session's state goes on with it."""

    def __init__(self, semantic: SemanticService, cost: CostRouters, learned: bool) -> None:
        """Without `learned`, auto is the default model."""
        self._semantic = semantic
        self._cost = cost
        self._learned = learned
        self._chosen: OrderedDict[str, Chosen] = OrderedDict()
        self._hidden: OrderedDict[tuple[str, str], NDArray[np.float32]] = OrderedDict()

    async def choose(self, question: Question, served: Sequence[Served], default: str) -> Chosen | None:
        """The model for a question that leaves it open; None where that is the default without any reason.

        Raises NotFound for a named router that is not there.
        """
        if question.request_id in self._chosen:
            return self._chosen[question.request_id]
        if question.asked.startswith(NAMED):
            chosen = await self._by_name(question, default)
        elif self._learned and len(served) > 1 and question.text.strip():
            chosen = await self._by_cost(question, served, default)
        else:
            return None
        if question.request_id:  # One that only asks leaves nothing behind.
            _keep(self._chosen, question.request_id, chosen)
        return chosen

    async def _by_name(self, question: Question, default: str) -> Chosen:
        name = question.asked.removeprefix(NAMED)
        if not question.text.strip():
            return Chosen(default, (f"router {name} reads text, and there is none: {default} is the default",))
        try:
            async with asyncio.timeout(EMBED_S):
                decided, decision, router = await self._semantic.decide(
                    question.request_id, question.tenant, name, question.text
                )
        except NotFound as error:
            raise NotFound(error.message, param="model") from None
        except (Unavailable, DeadlineExceeded, TimeoutError) as error:
            return Chosen(default, (f"router {name} did not decide ({_told(error)}): {default} is the default",))
        label, confidence = decision.ranked[0]
        threshold = router.classifier.fitted.threshold
        reasons = [f"router {name} says {label} with confidence {confidence:.2f}"]
        if decided.near:
            nearest = decided.near[0]
            reasons.append(f"nearest is {nearest.text[:80]!r} ({nearest.label}), cosine {nearest.cosine:.2f}")
        model = label
        if decision.scope < threshold:
            model = default
            reasons.append(
                f"but it is out of scope ({decision.scope:.2f} of {threshold:.2f}): {default} is the default"
            )
        return Chosen(
            model,
            tuple(reasons),
            tuple(decision.ranked),
            confidence,
            router=name,
            near=decided.near,
            patterns=tuple(decided.patterns),
            pattern=decided.pattern,
        )

    async def _by_cost(self, question: Question, served: Sequence[Served], default: str) -> Chosen:
        router = self._cost.serving(question.tenant).router
        vector = None
        try:
            async with asyncio.timeout(EMBED_S):
                vectors = await self._cost.vectors(router, [question.text])
                vector = None if vectors is None else vectors[0]
        except TimeoutError:
            pass  # The form of the text decides then.
        session = question.tenant, question.session_id
        ask = Ask(question.text, vector, question.constraints, self._hidden.get(session))
        decision = decide(router, ask, served, default)
        if question.session_id and question.request_id:
            _keep(self._hidden, session, decision.hidden)
        return _of_cost(decision, embedded=vector is not None)


def _of_cost(decision: Decision, *, embedded: bool) -> Chosen:
    reasons = decision.reasons if embedded else [*decision.reasons, FORM_ALONE]
    likeliest = sorted(decision.probabilities.items(), key=lambda each: (-each[1], each[0]))
    return Chosen(
        decision.model,
        tuple(reasons),
        tuple(likeliest),
        decision.confidence,
        temperature=decision.temperature,
        top_p=decision.top_p,
        context=decision.context,
    )


def message_of(chosen: Chosen) -> router_pb2.ModelChoice:
    """As the router tells it."""
    return router_pb2.ModelChoice(
        router=chosen.router,
        shares=[router_pb2.LabelScore(label=label, confidence=share) for label, share in chosen.probabilities],
        confidence=chosen.confidence,
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        context=chosen.context,
        neighbours=[router_pb2.Near(text=seen.text, label=seen.label, similarity=seen.cosine) for seen in chosen.near],
        patterns=chosen.patterns,
        pattern=chosen.pattern,
    )


def _keep(table: OrderedDict[Any, Any], key: Hashable, value: object) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > KEPT:
        table.popitem(last=False)


def _told(error: Exception) -> str:
    return f"memory took more than {EMBED_S:g} s" if isinstance(error, TimeoutError) else str(error)
