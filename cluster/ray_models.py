"""Models loaded, scaled and unloaded on Ray, on as many nodes as there are: the controller of a cluster.

Each replica is a Serve application of its own, so that its name, its node and its end are decided here: Serve chooses
by itself which replica of a deployment it stops, and sees no request that runs on one. What is to be is written down
before it is done; a controller that starts again goes on from there (fleet_record, reconcile).
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from actors.base.errors import InvalidArgument, RussetError
from cluster.capacity import settled, spread
from cluster.config import Config, ModelConfig
from cluster.controller import LoadedFile, check_replicas, check_timeout, model_asked, taken, unknown
from cluster.fleet_machines import Fleet, Machine
from cluster.fleet_plan import row, told
from cluster.fleet_record import FleetRecord, ReplicaRecord, ServedRecord
from cluster.reconcile import Seen, turn
from cluster.scaling import Wish, decide
from cluster.topology import Node, Placement, Unplaced, fit, replica_index
from protos.gen import control_pb2, inference_pb2

log = logging.getLogger(__name__)
LOOK_S, REST_S = 0.3, 1.0
"""Between looks while something is under way, and while nothing is."""


class RayModels:
    """The Controller of a cluster on Ray."""

    def __init__(self, config: Config, fleet: Fleet, record: FleetRecord) -> None:
        """record: what a controller before this one, or `russet up`, has written down."""
        self._config = config
        self._fleet = fleet
        self.record = record
        self._file = LoadedFile(config.home)
        self._changing = asyncio.Lock()
        self._look = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._wishes: dict[str, tuple[Wish, ...]] = {}
        """Of models that follow their load, what the last looks would have wanted."""

    async def start(self) -> None:
        """Go on with what is written down, and load again what was loaded by hand when the cluster last ran."""
        for served, replica in self.record.replicas():
            if replica.state == "draining":
                self._begin(self._drain(served, replica))
        for model in self._file.read():
            known = self.record.models.get(model.served_name)
            if known is None:
                await self._load_again(model)
            elif known.source == "config":
                log.warning("%s was loaded by hand, and is the configuration's now", model.served_name)
        self._begin(self._watch())

    async def stop(self) -> None:
        """Watch no longer. Everything runs on."""
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    async def listed(self) -> list[inference_pb2.ServedModel]:
        """Every model with its replicas."""
        machines = {machine.id: machine for machine in await self._machines(())}
        return [row(served, machines) for served in self.record.models.values()]

    async def load(self, request: inference_pb2.LoadModelRequest) -> inference_pb2.ServedModel:
        """Admit a model and begin to load it."""
        model = model_asked(request, self._config)
        check_replicas(model.replicas)
        async with self._changing:
            known = self.record.models.get(model.served_name)
            if known is not None and not known.failed:
                raise taken(model.served_name)
            placements = await self._admitted(model, range(model.replicas))
            served = ServedRecord(model=model, source="api")
            self.record.models[served.name] = served
            await self._put(served, placements)
        return row(served, {})

    async def scale(self, name: str, replicas: int) -> inference_pb2.ServedModel:
        """Add replicas where there is room, or drain those that serve least: first what waits, then the last ones."""
        check_replicas(replicas)
        async with self._changing:
            served = self._known(name)
            if served.model.max_replicas and not served.model.least <= replicas <= served.model.max_replicas:
                raise InvalidArgument(
                    f"replicas is {replicas}; accepted for {name} are {served.model.least} to "
                    f"{served.model.max_replicas}, within which it follows its load",
                    param="replicas",
                )
            for index in [index for index, replica in served.replicas.items() if replica.state == "failed"]:
                del served.replicas[index]
            have = len(_lasting(served))
            placements: Sequence[Placement] = ()
            if replicas > have:
                wanted = served.model.model_copy(update={"replicas": replicas, "cpus": ()})
                placements = await self._admitted(wanted, _free(served, replicas - have))
            await self._resize(served, replicas, placements)
        return row(served, {})

    async def unload(self, name: str, timeout_s: float) -> inference_pb2.ServedModel:
        """Drain every replica, then end it."""
        timeout_s = check_timeout(timeout_s)
        async with self._changing:
            served = self._known(name)
            served.unloading = True
            for replica in list(served.replicas.values()):
                if replica.state != "draining":
                    self._end(served, replica, timeout_s)
            self._drop_empty(served)
            await self._keep()
        return row(served, {})

    async def plan(self) -> control_pb2.PlanReply:
        """Every node and every replica's place."""
        machines = await self._machines(())
        offered = {machine.id: machine.memory_bytes for machine in machines}
        return told(self.record, [self._node(machine) for machine in machines], offered)

    async def _resize(self, served: ServedRecord, replicas: int, placements: Sequence[Placement]) -> None:
        """Have this many replicas: new ones at these places, or fewer, of which the last ones end first."""
        have = _lasting(served)
        served.model = served.model.model_copy(update={"replicas": replicas, "cpus": ()})
        for replica in _in_order_of_leaving(have)[: max(0, len(have) - replicas)]:
            self._end(served, replica, check_timeout(0))
        await self._put(served, placements)

    async def _follow_load(self, served: ServedRecord, seen: Seen) -> None:
        """Give a model that may have more or fewer replicas what its load asks for, as far as there is room.

        Nothing is decided while replicas are on their way: they have not taken their share yet.
        """
        model, replicas = served.model, _lasting(served)
        ready = [replica for replica in replicas if replica.state == "ready"]
        loads = [seen.loads[served.id_of(each)] for each in ready if served.id_of(each) in seen.loads]
        under_way = any(replica.state == "loading" for replica in replicas)
        if not model.max_replicas or served.unloading or under_way or not loads or len(loads) < len(ready):
            self._wishes.pop(served.name, None)
            return
        wishes = self._wishes.get(served.name, ())
        scaling = self._config.scaling
        chosen = decide(loads, time.monotonic(), model.least, model.max_replicas, scaling, wishes)
        self._wishes[served.name] = chosen.wishes
        placements: Sequence[Placement] = ()
        if chosen.replicas > len(loads):
            if len(replicas) > len(ready) or any(each.state == "failed" for each in served.replicas.values()):
                return  # Some wait for room, or could not start: more would fare as they.
            placements, unplaced = await self._fit(model, _free(served, chosen.replicas - len(loads)))
            if unplaced:
                log.warning("%s should have %d replicas: %s", served.name, chosen.replicas, unplaced[0].because)
            if not placements:
                return
        elif chosen.replicas == len(loads):
            return
        wanted = len(loads) + len(placements) if placements else chosen.replicas
        log.info("%s gets %d replicas, has %d: %s", served.name, wanted, len(loads), chosen.because)
        await self._resize(served, wanted, placements)

    async def _load_again(self, model: ModelConfig) -> None:
        served = self.record.models[model.served_name] = ServedRecord(model=model, source="api")
        for index in range(model.replicas):
            served.replicas[index] = ReplicaRecord(index=index)
        await self._keep()

    async def _admitted(self, model: ModelConfig, indices: Iterable[int]) -> Sequence[Placement]:
        placements, unplaced = await self._fit(model, list(indices))
        if unplaced:
            raise InvalidArgument(unplaced[0].because, param="models")
        return placements

    async def _fit(
        self, model: ModelConfig, indices: Sequence[int]
    ) -> tuple[tuple[Placement, ...], tuple[Unplaced, ...]]:
        demand = await asyncio.to_thread(spread, model, indices)  # reads the model's files
        return fit(await self._nodes(model), [demand])

    async def _put(self, served: ServedRecord, placements: Sequence[Placement]) -> None:
        """Write down that replicas have a place, then start them there."""
        names = {machine.id: machine.name for machine in await self._machines(())}
        new = []
        for placement in placements:
            index = replica_index(placement.replica_id)
            replica = served.replicas.setdefault(index, ReplicaRecord(index=index))
            log.info("%s on %s: %s", placement.replica_id, names.get(placement.node), placement.because)
            replica.put(placement, settled(served.model, placement), names.get(placement.node, placement.node))
            new.append(replica)
        await self._keep()
        for replica in new:
            await self._fleet.deploy(served.id_of(replica), replica)
        self._look.set()

    async def _machines(self, models: Sequence[ModelConfig]) -> list[Machine]:
        placed = {served.id_of(replica): replica.node for served, replica in self.record.replicas() if replica.node}
        return await self._fleet.machines(placed, models)

    async def _nodes(self, model: ModelConfig) -> list[Node]:
        """The nodes, with what is free on each: neither set aside for a replica, nor taken by anything else."""
        return [self._node(machine) for machine in await self._machines([model])]

    def _node(self, machine: Machine) -> Node:
        there = [(served, replica) for served, replica in self.record.replicas() if replica.node == machine.id]
        aside = sum(replica.bytes for _, replica in there)
        resident = {
            served.id_of(replica): machine.running.get(served.id_of(replica), (0, 0))[1] for served, replica in there
        }
        promised = sum(max(0, replica.bytes - resident[served.id_of(replica)]) for served, replica in there)
        free = max(0, min(machine.memory_bytes - aside, machine.available_bytes - promised))
        models = tuple(served.name for served, _ in there)
        return Node(
            machine.id,
            machine.cores,
            free,
            machine.name,
            models,
            machine.without,
            machine.labels,
            machine.unfit,
        )

    def _end(self, served: ServedRecord, replica: ReplicaRecord, timeout_s: float) -> None:
        if replica.state in ("waiting", "failed"):
            del served.replicas[replica.index]
            return
        replica.drain_s = timeout_s if replica.state == "ready" or replica.served else 0.0
        replica.become("draining")
        self._begin(self._drain(served, replica))

    async def _drain(self, served: ServedRecord, replica: ReplicaRecord) -> None:
        """Take no more requests, let those that run end, then end the replica: `reconcile` sees that it is gone."""
        if replica.drain_s:
            left_s = max(1.0, replica.changed_s + replica.drain_s - time.time())
            try:
                await self._fleet.drain(served.id_of(replica), left_s, unload=served.unloading)
            except RussetError as error:
                log.warning("%s did not drain: %s", served.id_of(replica), error)
        await self._fleet.delete(replica.application)
        self._look.set()

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("looking at the fleet failed; it is looked at again")
            under_way = any(replica.state in ("loading", "draining") for _, replica in self.record.replicas())
            self._look.clear()
            try:
                async with asyncio.timeout(LOOK_S if under_way else REST_S):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """See what became of every replica, and place those that wait where there is room now."""
        async with self._changing:
            seen = await self._fleet.seen()
            changed = False
            for served, replica in self.record.replicas():
                changed |= await self._turn(served, replica, seen)
            waiting = [served for served in self.record.models.values() if _waiting(served)]
            if changed:
                await self._keep()
            for served in waiting:
                await self._place_waiting(served)
            for served in list(self.record.models.values()):
                await self._follow_load(served, seen)

    async def _turn(self, served: ServedRecord, replica: ReplicaRecord, seen: Seen) -> bool:
        name = served.id_of(replica)
        change = turn(replica, name, seen)
        if change is None:
            return False
        log.info("%s is %s, was %s %s", name, change.state, replica.state, change.reason)
        if change.do == "delete":
            await self._fleet.delete(replica.application)
        elif change.do == "deploy":
            await self._fleet.deploy(name, replica)
        if change.state == "gone":
            await self._fleet.forget(name)
            del served.replicas[replica.index]
            self._drop_empty(served)
        elif change.state in ("waiting", "failed"):
            await self._fleet.forget(name)
            replica.unput(change.state, change.reason)
        else:
            replica.become(change.state, change.reason)
        return True

    async def _place_waiting(self, served: ServedRecord) -> None:
        try:
            placements, unplaced = await self._fit(served.model, _waiting(served))
        except RussetError as error:
            log.error("%s is not loaded: %s", served.name, error)
            for index in _waiting(served):
                served.replicas[index].unput("failed", error.message)
            await self._keep()
            return
        for each in unplaced:
            served.replicas[replica_index(each.replica_id)].reason = each.because
        if placements:
            await self._put(served, placements)

    def _drop_empty(self, served: ServedRecord) -> None:
        if not served.replicas and self.record.models.get(served.name) is served:
            del self.record.models[served.name]

    def _known(self, name: str) -> ServedRecord:
        if name not in self.record.models:
            raise unknown(name, list(self.record.models))
        return self.record.models[name]

    async def _keep(self) -> None:
        """Write the record, and for the next start of the cluster what was loaded by hand and did not fail."""
        await self._fleet.write(self.record)
        mine = [served for served in self.record.models.values() if served.source == "api"]
        loaded = [served.model for served in mine if not served.unloading and not served.failed]
        await asyncio.to_thread(self._file.write, loaded)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


def _lasting(served: ServedRecord) -> list[ReplicaRecord]:
    """Replicas that are there to stay, or wait to be."""
    return [replica for replica in served.replicas.values() if replica.state not in ("draining", "failed")]


def _free(served: ServedRecord, count: int) -> list[int]:
    """Numbers for so many more replicas."""
    return [index for index in range(count + len(served.replicas)) if index not in served.replicas][:count]


def _waiting(served: ServedRecord) -> list[int]:
    return [index for index, replica in served.replicas.items() if replica.state == "waiting"]


def _in_order_of_leaving(replicas: Sequence[ReplicaRecord]) -> list[ReplicaRecord]:
    order = ("waiting", "loading", "ready")
    return sorted(replicas, key=lambda replica: (order.index(replica.state), -replica.index))
