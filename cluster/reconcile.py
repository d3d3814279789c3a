"""What becomes of a replica, given what is seen of it: pure, one rule after the other."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cluster.fleet_record import ReplicaRecord, State
from cluster.scaling import Load

_OUR_ERROR = re.compile(r"actors\.base\.errors\.\w+: (.+)")
"""The last line of a traceback that ends in a RussetError, as Ray and Serve pass it on in their messages."""


class App(NamedTuple):
    """A Serve application: its status, and all that Serve says of it."""

    status: str
    said: str


@dataclass(frozen=True)
class Seen:
    """What can be seen of a cluster: Serve's applications, the ids of nodes that live, who takes requests.

    `router` tells the last by replica; None where the router is away.
    """

    apps: Mapping[str, App]
    nodes: frozenset[str]
    router: Mapping[str, bool] | None
    loads: Mapping[str, Load] = field(default_factory=dict)
    """Of replicas that take requests."""


class Turn(NamedTuple):
    """What becomes of a replica: its new state, why, and what has to be done for it."""

    state: State | Literal["gone"]
    reason: str = ""
    do: Literal["", "deploy", "delete"] = ""


def reason_of(said: str) -> str:
    """The message of an error of ours in what Serve says; empty where there is none."""
    found = _OUR_ERROR.search(said)
    return found[1] if found else ""


def turn(replica: ReplicaRecord, name: str, seen: Seen) -> Turn | None:
    """What becomes of the replica `name`; None where it stays as it is.

    One that drains is ended by who drains it, and gone when its application is.
    """
    app = seen.apps.get(replica.application)
    if replica.state in ("waiting", "failed"):
        return None
    if replica.node not in seen.nodes:
        if replica.state == "draining":
            return Turn("gone", do="delete")
        return Turn("waiting", f"its node {replica.node_name} is gone", do="delete")
    if replica.state == "draining":
        return Turn("gone") if app is None else None
    if app is None:
        # It was to be deployed by a controller that ended before it could.
        return Turn("loading", replica.reason, do="deploy")
    if replica.state == "ready":
        if app.status != "RUNNING":
            return Turn("loading", "its process ended")
        return (
            Turn("loading", "it takes no requests") if seen.router is not None and not seen.router.get(name) else None
        )
    if app.status == "RUNNING":
        return Turn("ready") if seen.router is not None and seen.router.get(name) else None
    reason = reason_of(app.said)
    if replica.served:
        return None  # Serve starts it until it runs again.
    if app.status == "DEPLOY_FAILED" or (app.status == "DEPLOYING" and reason):
        return Turn("failed", reason or app.said[-500:], do="delete")
    return None
