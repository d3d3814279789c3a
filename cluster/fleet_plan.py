"""Where the models of a configuration go first, and what is told of a cluster's nodes and of what runs where."""

import logging
import time
from collections.abc import Mapping, Sequence

from actors.base.errors import InvalidArgument
from cluster.capacity import settled, spread
from cluster.config import Config
from cluster.fleet_machines import Machine
from cluster.fleet_record import FleetRecord, ReplicaRecord, ServedRecord, shown
from cluster.topology import Node, fit, replica_id
from protos.gen import control_pb2, inference_pb2

log = logging.getLogger(__name__)


def told(record: FleetRecord, nodes: Sequence[Node], offered: Mapping[str, int]) -> control_pb2.PlanReply:
    """The plan. `offered`: bytes that each node has for replicas, by its id; by default what is free there now."""
    reply = control_pb2.PlanReply()
    for node in nodes:
        aside = sum(replica.bytes for _, replica in record.replicas() if replica.node == node.id)
        reply.nodes.append(
            control_pb2.PlanNode(
                name=node.shown,
                cores=node.cores,
                memory_bytes=offered.get(node.id, node.memory_bytes),
                aside_bytes=aside,
                free_bytes=node.memory_bytes if node.id in offered else max(0, node.memory_bytes - aside),
                labels=node.labels,
                unfit=node.unfit,
            )
        )
    for served, replica in record.replicas():
        model = replica.model
        reply.replicas.append(
            control_pb2.PlanReplica(
                id=served.id_of(replica),
                node=replica.node_name,
                state=replica.state if replica.state == "waiting" else shown(replica.state),
                reason=replica.reason,
                because=replica.because,
                bytes=replica.bytes,
                kv_bytes=model.kv_memory_bytes if model else 0,
                threads=model.threads if model else 0,
            )
        )
    return reply


def initial(config: Config, nodes: Sequence[Node]) -> FleetRecord:
    """The models of the configuration, placed; where other nodes may join, replicas that do not fit wait for them.

    Raises NotFound for a model that is not there, and InvalidArgument with the numbers where a replica does not fit,
    or where others may join, not one of its model.
    """
    record = FleetRecord()
    demands = [spread(model, range(model.replicas)) for model in config.models]
    placements, unplaced = fit(nodes, demands)
    if unplaced and config.ray.bind == "loopback":
        raise InvalidArgument(unplaced[0].because, param="models")
    placed = {each.replica_id: each for each in placements}
    reasons = {each.replica_id: each.because for each in unplaced}
    names = {node.id: node.shown for node in nodes}
    for model in config.models:
        served = record.models[model.served_name] = ServedRecord(model=model, source="config")
        for index in range(model.replicas):
            replica = served.replicas[index] = ReplicaRecord(index=index)
            if (place := placed.get(replica_id(model.served_name, index))) is not None:
                replica.put(place, settled(model, place), names[place.node])
                log.info("%s on %s: %s", place.replica_id, replica.node_name, place.because)
            else:
                replica.reason = reasons[replica_id(model.served_name, index)]
        if not any(replica.node for replica in served.replicas.values()):
            raise InvalidArgument(served.replicas[0].reason, param="models")
    return record


def row(served: ServedRecord, machines: Mapping[str, Machine]) -> inference_pb2.ServedModel:
    """A model and its replicas, as the API has them. machines: by id, as far as they are to be told of."""
    replicas = []
    for _, replica in sorted(served.replicas.items()):
        name = served.id_of(replica)
        machine = machines.get(replica.node)
        pid, resident = machine.running.get(name, (0, 0)) if machine is not None else (0, 0)
        replicas.append(
            inference_pb2.ServedReplica(
                id=name,
                state=shown(replica.state),
                reason=replica.reason,
                pid=pid,
                bytes=replica.bytes,
                resident_bytes=resident,
                since_s=max(0.0, time.time() - replica.changed_s),
                node=replica.node_name,
            )
        )
    return inference_pb2.ServedModel(
        id=served.name, model=served.model.model, source=served.source, state=served.state, replicas=replicas
    )
