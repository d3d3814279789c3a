"""What is told of a cluster's nodes and of what runs where."""

from collections.abc import Mapping, Sequence

from cluster.fleet_record import FleetRecord, shown
from cluster.topology import Node
from protos.gen import control_pb2


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
