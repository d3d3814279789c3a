"""The controller of a cluster on Ray over a fleet that is only told of: placed, moved, drained, remembered."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from actors.base.errors import Conflict, InvalidArgument, NotFound
from actors.worker.models.catalogue import locate
from cluster.config import Config, ModelConfig
from cluster.controller import LoadedFile
from cluster.fleet_machines import Machine
from cluster.fleet_plan import initial
from cluster.fleet_record import FleetRecord, ReplicaRecord
from cluster.ray_models import RayModels
from cluster.reconcile import App, Seen
from cluster.scaling import Load
from cluster.topology import Node
from protos.gen import inference_pb2
from tests.conftest import KV_BYTES, settings

GB = 10**9
FILE = str(locate("smollm2-135m-instruct")[1])
OWN = "smollm2-135m-instruct"
SECOND = inference_pb2.LoadModelRequest(model=FILE, id="second", settings=f'{{"kv_memory_bytes": {KV_BYTES}}}')
FULL, IDLE = Load(10, 20, 10, 0.5, 9.0), Load(0, 0, 10, 0.0, 0.0)


class Told:
    """A Fleet of which the test says what there is; it remembers what it was told to do."""

    def __init__(self, *machines: Machine) -> None:
        self.nodes = {machine.id: machine for machine in machines}
        self.apps: dict[str, App] = {}
        self.serving: dict[str, bool] = {}
        self.drained: list[tuple[str, bool]] = []
        self.drain_ends = asyncio.Event()
        self.drain_ends.set()
        self.written = ""
        self.load = IDLE
        self.starts = True

    async def machines(self, placed: Mapping[str, str], models: Sequence[ModelConfig]) -> list[Machine]:
        return list(self.nodes.values())

    async def seen(self) -> Seen:
        loads = dict.fromkeys(self.serving, self.load)
        return Seen(dict(self.apps), frozenset(self.nodes), dict(self.serving), loads)

    async def deploy(self, name: str, replica: ReplicaRecord) -> None:
        assert name in self.written, "what is to be is written down before it is done"
        self.apps[replica.application] = App("RUNNING" if self.starts else "DEPLOYING", "")
        self.serving[name] = self.starts

    async def delete(self, application: str) -> None:
        self.apps.pop(application, None)

    async def forget(self, name: str) -> None:
        self.serving.pop(name, None)

    async def drain(self, name: str, timeout_s: float, *, unload: bool) -> None:
        self.drained.append((name, unload))
        await self.drain_ends.wait()

    async def write(self, record: FleetRecord) -> None:
        self.written = record.model_dump_json() + str([s.id_of(r) for s, r in record.replicas()])


def machine(name: str, free: int = 10 * GB) -> Machine:
    return Machine(f"id-{name}", name, 4, free, 64 * GB)


def controller(config: Config, fleet: Told) -> RayModels:
    """As `russet up` starts one: the models of the configuration are placed on the first node."""
    first = next(iter(fleet.nodes.values()))
    record = initial(config, [Node(first.id, first.cores, first.memory_bytes, first.name)])
    for served, replica in record.replicas():
        if replica.node:
            fleet.apps[replica.application] = App("RUNNING", "")
            fleet.serving[served.id_of(replica)] = True
    return RayModels(config, fleet, record)


async def states(models: RayModels, name: str = "second") -> list[tuple[str, str, str]]:
    await models.look()
    rows = [row for row in await models.listed() if row.id == name]
    return [(replica.id, replica.state, replica.node) for row in rows for replica in row.replicas]


async def ended(models: RayModels) -> None:
    """Until nothing is being drained any more."""
    while models._work:
        await asyncio.sleep(0)


async def test_loaded_scaled_and_unloaded(home: Path) -> None:
    models = controller(settings(home), fleet := Told(machine("a")))
    row = await models.load(SECOND)
    assert (row.source, row.state, row.replicas[0].bytes > KV_BYTES) == ("api", "loading", True)
    assert await states(models) == [("second-0", "ready", "a")]
    with pytest.raises(Conflict, match="served as 'second' already"):
        await models.load(SECOND)
    await models.scale("second", 2)
    assert await states(models) == [("second-0", "ready", "a"), ("second-1", "ready", "a")]
    # The first to leave is the last that came, and it is not ended before it has drained.
    fleet.drain_ends.clear()
    await models.scale("second", 1)
    assert await states(models) == [("second-0", "ready", "a"), ("second-1", "draining", "a")]
    assert fleet.drained == [("second-1", False)]
    fleet.drain_ends.set()
    await ended(models)
    assert await states(models) == [("second-0", "ready", "a")]
    assert LoadedFile(home).read()[0].replicas == 1
    await models.unload("second", 5)
    await ended(models)
    assert await states(models) == []
    assert fleet.drained[-1] == ("second-0", True)
    assert LoadedFile(home).read() == []
    with pytest.raises(NotFound, match="there are: smollm2"):
        await models.scale("second", 1)
    # The configuration's own are ended the same way.
    await models.unload(OWN, 5)
    await ended(models)
    assert await states(models, OWN) == []


async def test_memory_that_is_set_aside_is_not_free(home: Path) -> None:
    """A node offers 0.7 GB: there is room for two replicas of 0.26 GB, and none for a third."""
    models = controller(settings(home), Told(machine("a", 700_000_000)))
    await models.load(SECOND)
    with pytest.raises(InvalidArgument, match=r"replica 2 of 2 of second needs 0\.26 GB .*but a: 0\.1\d GB free"):
        await models.scale("second", 2)
    third = inference_pb2.LoadModelRequest(model=FILE, id="third", settings=SECOND.settings)
    with pytest.raises(InvalidArgument, match=r"third needs 0\.26 GB"):
        await models.load(third)
    assert [row.id for row in await models.listed()] == [OWN, "second"]
    await models.unload("second", 5)
    await ended(models)
    await models.look()
    assert (await models.load(third)).state == "loading"


async def test_memory_that_others_took_is_not_free_and_what_replicas_took_is_not_counted_twice(home: Path) -> None:
    models = controller(settings(home), fleet := Told(replace(machine("a"), available_bytes=400_000_000)))
    with pytest.raises(InvalidArgument, match=r"a: 0\.1\d GB free"):
        await models.load(SECOND)
    fleet.nodes["id-a"] = replace(fleet.nodes["id-a"], running={f"{OWN}-0": (7, 500_000_000)})
    assert (await models.load(SECOND)).state == "loading"


async def test_replicas_of_a_node_that_goes_are_placed_on_what_is_left(home: Path) -> None:
    models = controller(settings(home), fleet := Told(machine("a"), machine("b")))
    await models.load(inference_pb2.LoadModelRequest(model=FILE, id="second", replicas=2, settings=SECOND.settings))
    assert await states(models) == [("second-0", "ready", "b"), ("second-1", "ready", "a")]
    before = models.record.models["second"].replicas[1].application
    del fleet.nodes["id-b"]
    assert await states(models) == [("second-0", "loading", "a"), ("second-1", "ready", "a")]
    assert await states(models) == [("second-0", "ready", "a"), ("second-1", "ready", "a")]
    # Another node comes: who is well stays where it is.
    fleet.nodes["id-c"] = machine("c", 60 * GB)
    assert await states(models) == [("second-0", "ready", "a"), ("second-1", "ready", "a")]
    assert models.record.models["second"].replicas[1].application == before


async def test_replicas_without_a_place_wait_for_a_node_and_say_what_they_need(home: Path) -> None:
    config = settings(home, models__0__replicas=2, models__0__per_node=1, ray__bind="node")
    models = controller(config, fleet := Told(machine("a")))
    assert await states(models, OWN) == [(f"{OWN}-0", "ready", "a"), (f"{OWN}-1", "loading", "")]
    [_, waits] = (await models.listed())[0].replicas
    assert "a: has 1 of it, and models.per_node is 1" in waits.reason
    fleet.nodes["id-b"] = machine("b", 100_000_000)
    await models.look()
    [_, waits] = (await models.listed())[0].replicas
    assert "b: 0.10 GB free" in waits.reason
    fleet.nodes["id-c"] = machine("c")
    await models.look()
    assert await states(models, OWN) == [(f"{OWN}-0", "ready", "a"), (f"{OWN}-1", "ready", "c")]
    with pytest.raises(InvalidArgument, match="replica 2 of 2"):
        initial(settings(home, models__0__replicas=2, models__0__per_node=1), [Node("a", 4, 10 * GB)])


async def test_a_controller_goes_on_where_the_one_before_stopped(home: Path) -> None:
    config = settings(home)
    models = controller(config, fleet := Told(machine("a")))
    await models.load(SECOND)
    await models.look()
    fleet.drain_ends.clear()
    await models.scale(OWN, 2)
    await models.look()
    await models.scale(OWN, 1)
    await models.stop()
    text = models.record.model_dump_json()
    fleet.drain_ends.set()
    again = RayModels(config, fleet, FleetRecord.model_validate_json(text))
    await again.start()
    async with asyncio.timeout(10):
        while await states(again, OWN) != [(f"{OWN}-0", "ready", "a")]:
            await asyncio.sleep(0)
    assert await states(again) == [("second-0", "ready", "a")]
    assert again.record.models["second"].replicas[0].application in fleet.apps
    await again.stop()


async def test_what_was_loaded_by_hand_is_loaded_again_with_the_cluster(home: Path) -> None:
    second = ModelConfig(model=FILE, model_id="second", kv_memory_bytes=KV_BYTES)
    LoadedFile(home).write([second, ModelConfig(model="/nowhere.gguf", model_id="gone")])
    models = controller(settings(home), Told(machine("a")))
    await models.start()
    async with asyncio.timeout(10):
        while await states(models) != [("second-0", "ready", "a")]:
            await asyncio.sleep(0)
    [gone] = [row for row in await models.listed() if row.id == "gone"]
    assert (gone.state, "no model at /nowhere.gguf" in gone.replicas[0].reason) == ("failed", True)
    await models.stop()


async def test_a_replica_that_cannot_start_leaves_its_reason_and_no_memory_aside(home: Path) -> None:
    models = controller(settings(home), fleet := Told(machine("a")))
    await models.load(SECOND)
    application = models.record.models["second"].replicas[0].application
    fleet.apps[application] = App("DEPLOYING", "actors.base.errors.InvalidArgument: GGUF version 0")
    assert await states(models) == [("second-0", "failed", "")]
    [row] = [row for row in await models.listed() if row.id == "second"]
    assert (row.replicas[0].reason, row.replicas[0].bytes) == ("GGUF version 0", 0)
    assert application not in fleet.apps
    assert LoadedFile(home).read() == []
    assert (await models.load(SECOND)).state == "loading"


async def test_replicas_follow_the_load_within_their_limits_and_the_room_there_is(home: Path) -> None:
    """A node of 0.85 GB: room for the configuration's replica and two of the three that the load asks for."""
    config = settings(home, scaling__up_after_s=0, scaling__down_after_s=0)
    models = controller(config, fleet := Told(machine("a", 850_000_000)))
    more = json.loads(SECOND.settings) | {"max_replicas": 3}
    await models.load(inference_pb2.LoadModelRequest(model=FILE, id="second", settings=json.dumps(more)))
    fleet.load = FULL
    for _ in range(5):
        await models.look()
    assert await states(models) == [("second-0", "ready", "a"), ("second-1", "ready", "a")]
    assert (await states(models, OWN))[1:] == []
    with pytest.raises(InvalidArgument, match="accepted for second are 1 to 3"):
        await models.scale("second", 4)
    # The one that goes ends its answers first; meanwhile nothing else is decided.
    fleet.load = IDLE
    fleet.drain_ends.clear()
    await models.look()
    assert await states(models) == [("second-0", "ready", "a"), ("second-1", "draining", "a")]
    assert fleet.drained == [("second-1", False)]
    fleet.drain_ends.set()
    await ended(models)
    for _ in range(3):
        assert await states(models) == [("second-0", "ready", "a")]
    assert LoadedFile(home).read()[0].replicas == 1


async def test_nothing_is_decided_while_replicas_are_on_their_way(home: Path) -> None:
    config = settings(home, models__0__max_replicas=4, scaling__up_after_s=0)
    models = controller(config, fleet := Told(machine("a")))
    fleet.load, fleet.starts = FULL, False
    for _ in range(4):
        await models.look()
    assert [state for _, state, _ in await states(models, OWN)] == ["ready", "loading"]
