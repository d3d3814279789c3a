"""Every actor of a cluster deployed at its start, and what is still waited for."""

import contextlib

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from actors.base.errors import Unavailable
from cluster.config import Config
from cluster.fleet_record import FleetRecord
from cluster.ray_app import Gateway, Learner, Memory, Router
from cluster.ray_certificates import HEAD
from cluster.ray_fleet import Controller, read_record, run, write_record
from cluster.ray_replica import deployment, target
from cluster.reconcile import reason_of
from cluster.topology import Node

SERVICES = {"memory": Memory, "router": Router, "learner": Learner, "controller": Controller, "gateway": Gateway}


def head() -> Node:
    """The node that Ray's head is on, where nothing runs yet. Its memory is what was offered when it was started."""
    node = next(node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"])
    resources = node["Resources"]
    labels = {name: label for name, label in node["Labels"].items() if "/" not in name}
    address = node["NodeManagerAddress"]
    return Node(node["NodeID"], int(resources["CPU"]), int(resources["memory"]), address, labels=labels)


def deploy(config: Config, record: FleetRecord) -> list[str]:
    """Start every service on the head and the replicas that were placed; returns before they are ready, their names.

    The controller finds the record when it starts, and keeps it from then on.
    """
    serve.start(proxy_location="Disabled")
    write_record(record)
    text = config.model_dump_json(context={"secrets": True})
    targets = [
        serve.RunTarget(deployment(actor, name, {HEAD: 0.001}).bind(text), name=name, route_prefix=None)
        for name, actor in SERVICES.items()
    ]
    placed = [(served.id_of(replica), replica) for served, replica in record.replicas() if replica.node]
    targets += [target(config, name, replica) for name, replica in placed]
    run(targets)
    return [each.name for each in targets]


def waiting_for(names: list[str]) -> dict[str, str]:
    """Of these applications those that are not running yet, with what Serve says of each.

    Raises Unavailable with the reason where one failed to start for a cause of ours: trying again would not help.
    """
    applications = serve.status().applications
    for served, replica in read_record().replicas():
        if replica.state == "failed" and served.source == "config":
            raise Unavailable(f"{served.id_of(replica)} did not start: {replica.reason}")
    waiting: dict[str, str] = {}
    for name in names:
        application = applications.get(name)
        if application is None or application.status == "RUNNING":
            continue
        said = "\n".join([application.message, *(each.message for each in application.deployments.values())])
        if reason := reason_of(said):
            raise Unavailable(f"{name} did not start: {reason}")
        waiting[name] = said.strip() or application.status
    return waiting


def stop() -> None:
    """End every actor. The controller first, which would start again what ends; where Serve runs, there may be one."""
    with contextlib.suppress(RayServeException):
        serve.delete("controller")
    serve.shutdown()
