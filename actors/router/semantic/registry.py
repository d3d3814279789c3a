"""The named routers of every tenant: their examples, their trained classifiers, and memory, which outlives both."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from actors.base.errors import InvalidArgument, NotFound, RussetError, TooLarge, Unavailable
from actors.router.semantic import shipped, standing
from actors.router.semantic.features import VIEWS, Features, Query, query, views, words
from actors.router.semantic.model import Classifier, fit
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Tenant and name. Routers that ship with Russet belong to the tenant ANYONE."""
ANYONE = "\0shipped"
MAX_EXAMPLES = 50_000
EMBED_BATCH = 256
PATTERN_BATCH = 250
EMBED_TIMEOUT_S, MEMORY_TIMEOUT_S = 120.0, 30.0
RETRY_S = 1.0


class Example(NamedTuple):
    """A text, its label (empty: out of scope) and the unit embeddings of its views, float16 [VIEWS * width].

    `success` (0..1) and `uses` are of the requests that it decided.
    """

    text: str
    label: str
    dense: NDArray[np.float16]
    success: float = standing.UNTRIED
    uses: int = 0


@dataclass(frozen=True)
class Router:
    """One named router: examples by text, in order, and what was trained on them."""

    name: str
    embedder: str
    examples: dict[str, Example]
    classifier: Classifier

    @cached_property
    def texts(self) -> list[str]:
        """Of the examples, by place."""
        return list(self.examples)

    @cached_property
    def places(self) -> dict[str, int]:
        """Of the examples, by text."""
        return {text: place for place, text in enumerate(self.examples)}

    def credit(self, text: str, outcome: float) -> None:
        """One more outcome (0..1) of what an example decided; it votes by it from now on."""
        before = self.examples[text]
        self.stand(text, standing.credited(before.success, outcome), before.uses + 1)

    def stand(self, text: str, success: float, uses: int) -> None:
        """How an example stands from now on."""
        self.examples[text] = self.examples[text]._replace(success=success, uses=uses)
        self.classifier.believe(self.places[text], standing.weight(success, uses))


class Registry:
    """Routers by tenant and name. One change at a time; classifying goes on by what was there before it."""

    def __init__(self, memory: MemoryStub) -> None:
        self._memory = memory
        self._changing = asyncio.Lock()
        self._trainer = ThreadPoolExecutor(1, thread_name_prefix="router-trainer")
        self._restoring: asyncio.Task[None] | None = None
        self._restored = asyncio.Event()
        self._routers: dict[Key, Router] = {}

    async def start(self) -> None:
        """Begin to rebuild what memory has; the routers that ship with Russet answer at once."""
        for each in shipped.load():
            examples = {
                text: Example(text, label, dense) for (text, label), dense in zip(each.pairs, each.dense, strict=True)
            }
            classifier = Classifier(each.fitted, each.dense.astype(np.float32))
            self._routers[ANYONE, each.name] = Router(each.name, each.embedder, examples, classifier)
        self._restoring = asyncio.create_task(self._restore())

    async def stop(self) -> None:
        """End."""
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.gather(self._restoring, return_exceptions=True)
        self._trainer.shutdown(cancel_futures=True)

    async def _restore(self) -> None:
        """Read patterns until memory answers. Raises nothing: a router that cannot be rebuilt is logged and left."""
        while True:
            try:
                found: dict[Key, dict[str, Example]] = {}
                async for page in self._memory.ReadPatterns(memory_pb2.ReadPatternsRequest()):
                    for pattern in page.patterns:
                        dense = np.frombuffer(pattern.features, np.float16)
                        success = pattern.success if pattern.HasField("success") else standing.UNTRIED
                        found.setdefault((pattern.tenant, pattern.router), {})[pattern.text] = Example(
                            pattern.text, pattern.label, dense, success, pattern.uses
                        )
                embedder = (await self._memory.Status(memory_pb2.StatusRequest(), timeout=MEMORY_TIMEOUT_S)).embedder
                break
            except RussetError as error:
                log.warning("named routers are not rebuilt yet: %s; trying again in %g s", error.message, RETRY_S)
                await asyncio.sleep(RETRY_S)
        for (tenant, name), examples in found.items():
            ordered = {text: examples[text] for text in sorted(examples)}
            try:
                self._routers[tenant, name] = await self._train(name, embedder, ordered)
            except RussetError:
                log.exception(
                    "router %s of tenant %r cannot be rebuilt from its %d examples", name, tenant, len(ordered)
                )
        self._restored.set()

    async def restored(self) -> None:
        """Return when everything that memory had has been rebuilt."""
        await self._restored.wait()

    def get(self, tenant: str, name: str) -> Router:
        """The tenant's router of this name, else one that ships. Raises NotFound naming those there are."""
        router = self._routers.get((tenant, name)) or self._routers.get((ANYONE, name))
        if router is not None:
            return router
        if not self._restored.is_set():
            raise Unavailable(f"router {name[:80]!r} is not known yet; the routers are being rebuilt", retry_after_s=1)
        known = ", ".join(sorted({router.name for router, _ in self.list(tenant)}))
        raise NotFound(f"there is no router {name[:80]!r}; there are: {known or 'none'}", param="router")

    def list(self, tenant: str) -> list[tuple[Router, bool]]:
        """A tenant's routers by name, and whether each ships with Russet."""
        found = {name: (router, True) for (owner, name), router in self._routers.items() if owner == ANYONE}
        found |= {name: (router, False) for (owner, name), router in self._routers.items() if owner == tenant}
        return [found[name] for name in sorted(found)]

    async def put(self, tenant: str, name: str, given: Sequence[tuple[str, str]], *, replace: bool) -> Router:
        """Train on `given` texts and labels, and on the examples there are unless they are to be replaced."""
        await self.restored()
        async with self._changing:
            # Added to a router that ships, examples make one of the tenant's own that begins as that.
            before = self._routers.get((tenant, name)) or self._routers.get((ANYONE, name))
            known = before.examples if before is not None else {}
            # A text that was embedded once keeps its vectors, whatever its label becomes.
            fresh = [text for text, _ in given if text not in known]
            embedder, vectors = await self._embed(fresh)
            dense = dict(zip(fresh, vectors, strict=True)) | {text: each.dense for text, each in known.items()}
            examples = {} if replace else dict(known)
            # What a text decided under another label says nothing about this one.
            unchanged = {text for text, label in given if text in known and known[text].label == label}
            examples |= {
                text: known[text] if text in unchanged else Example(text, label, dense[text]) for text, label in given
            }
            return await self._become(tenant, name, embedder or (before.embedder if before else ""), examples)

    def credit(self, key: Key, text: str, outcome: float) -> bool:
        """One more outcome (0..1) of what an example of a tenant's own router decided; False where it is gone.

        A router that comes with Russet is shared by all tenants: what one says of it changes nothing.
        """
        router = self._routers.get(key)
        if router is None or text not in router.examples:
            return False
        router.credit(text, outcome)
        return True

    async def write(self, key: Key, texts: Sequence[str]) -> None:
        """Have memory keep how examples stand now."""
        router = self._routers.get(key)
        known = [router.examples[text] for text in texts if text in router.examples] if router is not None else []
        for start in range(0, len(known), PATTERN_BATCH):
            await self._put_patterns(key, known[start : start + PATTERN_BATCH])

    async def _put_patterns(self, key: Key, examples: Sequence[Example]) -> None:
        patterns = [_pattern(*key, each) for each in examples]
        await self._memory.PutPatterns(memory_pb2.PutPatternsRequest(patterns=patterns), timeout=MEMORY_TIMEOUT_S)

    async def keep(self, tenant: str, name: str, examples: dict[str, Example]) -> Router:
        """Train anew on some of a router's examples."""
        await self.restored()
        async with self._changing:
            return await self._become(tenant, name, self._own(tenant, name).embedder, examples)

    async def delete(self, tenant: str, name: str) -> bool:
        """Forget a router; False where there was none."""
        await self.restored()
        async with self._changing:
            if (tenant, name) not in self._routers:
                return False
            await self._forget(tenant, name, list(self._routers[tenant, name].examples))
            del self._routers[tenant, name]
            return True

    def _own(self, tenant: str, name: str) -> Router:
        if (tenant, name) not in self._routers and (ANYONE, name) in self._routers:
            raise InvalidArgument(
                f"router {name!r} comes with Russet and stays as it is; train one of your own under its name, "
                "or another",
                param="router",
            )
        if (tenant, name) not in self._routers:
            self.get(tenant, name)
        return self._routers[tenant, name]

    async def _become(self, tenant: str, name: str, embedder: str, examples: dict[str, Example]) -> Router:
        """Train, then have memory keep the difference, then answer by it."""
        if len(examples) > MAX_EXAMPLES:
            raise TooLarge(f"router {name} would have {len(examples)} examples; accepted are up to {MAX_EXAMPLES}")
        router = await self._train(name, embedder, examples)
        before = self._routers[tenant, name].examples if (tenant, name) in self._routers else {}
        changed = [each for text, each in examples.items() if text not in before or before[text].label != each.label]
        for start in range(0, len(changed), PATTERN_BATCH):
            await self._put_patterns((tenant, name), changed[start : start + PATTERN_BATCH])
        await self._forget(tenant, name, [text for text in before if text not in examples])
        # Outcomes that came while it was trained are of the examples before.
        for text, each in before.items():
            if text in examples and examples[text].label == each.label and each.uses > examples[text].uses:
                router.stand(text, each.success, each.uses)
        self._routers[tenant, name] = router
        return router

    async def _forget(self, tenant: str, name: str, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), PATTERN_BATCH):
            gone = [
                memory_pb2.Pattern(tenant=tenant, router=name, text=text)
                for text in texts[start : start + PATTERN_BATCH]
            ]
            await self._memory.DeletePatterns(memory_pb2.DeletePatternsRequest(patterns=gone), timeout=MEMORY_TIMEOUT_S)

    async def _train(self, name: str, embedder: str, examples: dict[str, Example]) -> Router:
        loop = asyncio.get_running_loop()
        router = Router(name, embedder, examples, await loop.run_in_executor(self._trainer, _classifier, examples))
        for each in list(examples.values()):
            router.stand(each.text, each.success, each.uses)
        return router

    async def _embed(self, texts: Sequence[str]) -> tuple[str, NDArray[np.float16]]:
        """The embedder's identity and the views' vectors [n, VIEWS * width]."""
        parts = [part for text in texts for part in views(text)]
        model, rows = "", []
        for start in range(0, len(parts), EMBED_BATCH):
            request = memory_pb2.EmbedRequest(texts=parts[start : start + EMBED_BATCH])
            reply = await self._memory.Embed(request, timeout=EMBED_TIMEOUT_S)
            model = reply.model
            rows.append(np.array(reply.values, np.float16).reshape(-1, reply.width))
        if not rows:
            return model, np.empty((0, 0), np.float16)
        return model, np.concatenate(rows).reshape(len(texts), -1)

    async def query(self, router: Router, text: str) -> Query:
        """What `router` looks at in a text; views that it does not look at are left 0 and cost nothing."""
        looked_at = list(views(text)[: router.classifier.fitted.views])
        reply = await self._memory.Embed(memory_pb2.EmbedRequest(texts=looked_at), timeout=MEMORY_TIMEOUT_S)
        if reply.model != router.embedder:
            raise InvalidArgument(
                f"router {router.name} was trained with the embedder {router.embedder}, and memory's is {reply.model}; "
                "train it again, or use that embedder",
                param="router",
            )
        dense = np.zeros(VIEWS * reply.width, np.float32)
        dense[: len(reply.values)] = reply.values
        return query(dense, text)


def _classifier(examples: dict[str, Example]) -> Classifier:
    if len({len(each.dense) for each in examples.values()}) > 1:
        raise InvalidArgument("the examples' vectors have several widths; train the router anew", param="examples")
    rows = [each.dense for each in examples.values()] or [np.empty(0, np.float16)]
    dense = np.stack(rows).astype(np.float32)
    labels = [each.label for each in examples.values()]
    # Threads of BLAS wait for each other actively: on a machine that also serves models they cost more than they bring.
    with threadpool_limits(1):
        return Classifier(fit(Features(dense, words(list(examples))), labels), dense)


def _pattern(tenant: str, name: str, example: Example) -> memory_pb2.Pattern:
    return memory_pb2.Pattern(
        tenant=tenant,
        router=name,
        text=example.text,
        label=example.label,
        embedding=example.dense[: len(example.dense) // VIEWS].astype(np.float32),
        features=example.dense.tobytes(),
        success=example.success,
        uses=example.uses,
    )
