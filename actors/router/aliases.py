"""The aliases that hold: the configuration's, and before those what was put since, which memory keeps.

Each is a policy of type "router". What is known of the targets' requests is a policy beside it, written now and then:
an A/B outlives a restart, but for its last seconds.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable

from actors.base.errors import InvalidArgument, NotFound, RussetError, Unavailable
from actors.router.config import AliasConfig, RouterConfig, problem_of
from actors.router.naming import Alias
from actors.router.policy_watch import watch
from actors.router.variants import Variants
from protos.gen import memory_pb2, router_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

log = logging.getLogger(__name__)
ALIAS, OUTCOMES = "alias:", "alias-outcomes:"
"""How the ids of policies begin."""
MEMORY_TIMEOUT_S = 10.0
WRITE_S = 10.0
"""Between two writings of what is known of requests."""


class Aliases:
    """Aliases by name. Looking one up asks nobody; changing one asks memory first.

    Without `memory` there are only the configuration's.
    """

    def __init__(
        self, config: RouterConfig, memory: MemoryStub | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._memory = memory
        self._configured = {name: alias.named(name) for name, alias in config.aliases.items()}
        self._put: dict[str, Alias] = {}
        self._versions: dict[str, int] = {}
        """Of policies, by id: an older one is passed over."""
        self._restored: set[str] = set()
        """Aliases whose outcomes were read."""
        self._changed: set[str] = set()
        """Aliases whose outcomes were not written yet."""
        self._tasks: list[asyncio.Task[None]] = []
        self.variants = Variants(clock)
        self.by_name: dict[str, Alias] = dict(self._configured)
        """Those that hold."""

    async def start(self) -> None:
        """Begin to read what memory has, to hear of changes, and to write."""
        if self._memory is not None:
            self._tasks = [asyncio.create_task(watch(self._memory, self._take)), asyncio.create_task(self._write())]

    async def stop(self) -> None:
        """Write what is known, and end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._write_changed()

    def source(self, name: str) -> str:
        """Where an alias comes from: api or config."""
        return "api" if name in self._put else "config"

    async def put(self, name: str, config: AliasConfig) -> Alias:
        """Set one. Raises InvalidArgument naming what is wrong, Unavailable where memory is away."""
        if problem := problem_of(name, config):
            raise InvalidArgument(f"alias {name[:80]!r}: {problem}", param="models")
        await self._keep(ALIAS + name, config.model_dump(mode="json"))
        self._changed.add(name)
        return self.by_name[name]

    async def delete(self, name: str) -> bool:
        """Forget one that was put; False where there was none. Raises InvalidArgument for the configuration's."""
        if name in self._put:
            await self._forget(OUTCOMES + name)
            await self._forget(ALIAS + name)
            self._changed.discard(name)
            return True
        if name in self._configured:
            raise InvalidArgument(
                f"alias {name!r} is the configuration's (router.aliases): take it out there, or put another",
                param="alias",
            )
        return False

    def get(self, name: str) -> Alias:
        """The one of this name. Raises NotFound naming those there are."""
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise NotFound(f"there is no alias {name[:80]!r}; there are: {known}", param="alias")
        return self.by_name[name]

    def report(self, outcome: router_pb2.Outcome) -> bool:
        """Count what became known of a request; False, and nothing, for a target that is none (any more)."""
        alias = self.by_name.get(outcome.alias)
        if alias is None or all(target.model != outcome.model for target in alias.targets):
            return False
        self.variants.add(outcome)
        self._changed.add(outcome.alias)
        return True

    async def _keep(self, policy_id: str, parameters: dict) -> None:
        """Have memory keep a policy, then hold it here."""
        if self._memory is None:
            raise Unavailable("aliases cannot be changed: this router has no memory to keep them")
        policy = memory_pb2.Policy(
            id=policy_id, type="router", parameters=json.dumps(parameters), source="manual", confidence=1
        )
        reply = await self._memory.PutPolicy(memory_pb2.PutPolicyRequest(policy=policy), timeout=MEMORY_TIMEOUT_S)
        policy.version = reply.version
        self._take(policy)

    async def _forget(self, policy_id: str) -> None:
        """Have memory forget a policy, then forget it here."""
        if self._memory is not None:
            await self._memory.DeletePolicy(memory_pb2.DeletePolicyRequest(id=policy_id), timeout=MEMORY_TIMEOUT_S)
        self._drop(policy_id)

    async def _read(self, policy_id: str) -> None:
        """Take what memory has of a policy, if it was not told of it yet."""
        if self._memory is not None and policy_id not in self._versions:
            request = memory_pb2.SearchPoliciesRequest(type="router", id=policy_id)
            for found in (await self._memory.SearchPolicies(request, timeout=MEMORY_TIMEOUT_S)).policies:
                self._take(found.policy)

    def _take(self, policy: memory_pb2.Policy) -> None:
        """A policy as memory has it: an alias, outcomes, or another's."""
        if policy.gone:
            self._drop(policy.id)
            return
        if policy.version <= self._versions.get(policy.id, 0):
            return
        if policy.id.startswith(ALIAS):
            name = policy.id.removeprefix(ALIAS)
            kept = json.loads(policy.parameters)
            config = AliasConfig(models=kept["models"], max_failures=kept["max_failures"])
            self._put[name] = config.named(name)
            self.by_name = self._configured | self._put
        elif policy.id.startswith(OUTCOMES):
            name = policy.id.removeprefix(OUTCOMES)
            if name not in self._restored:
                self.variants.restore(name, json.loads(policy.parameters))
                self._restored.add(name)
        else:
            return
        self._versions[policy.id] = policy.version
        if name in self.by_name:  # Outcomes may be read before their alias is.
            self.variants.keep_only(name, {target.model for target in self.by_name[name].targets})

    def _drop(self, policy_id: str) -> None:
        """Memory has this policy no more."""
        self._versions.pop(policy_id, None)
        if policy_id.startswith(ALIAS):
            name = policy_id.removeprefix(ALIAS)
            self._put.pop(name, None)
            self.by_name = self._configured | self._put
            self.variants.keep_only(name, set())

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(WRITE_S)
            await self._write_changed()

    async def _write_changed(self) -> None:
        """Tell memory what is known of requests; while it is away, later."""
        for name in sorted(self._changed):
            try:
                await self._read(OUTCOMES + name)
                self._restored.add(name)
                await self._keep(OUTCOMES + name, self.variants.of_alias(name))
            except RussetError as error:
                log.info("outcomes of alias %s are not written yet: %s", name, error.message)
                return
            self._changed.discard(name)
