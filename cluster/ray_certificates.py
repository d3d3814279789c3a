"""Certificates across nodes: the head signs, by a Ray task, what another node asks for; keys stay where they were made.

Whoever may run a task on the head (Ray's token) gets a certificate. A request and its answer hold no secret.
"""

from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.base.errors import Unavailable
from cluster.authority import Signed
from cluster.certificates import authority_of, renew_here
from cluster.config import Config

HEAD = "node:__internal_head__"
"""Resource that Ray gives its head node alone."""
ANSWER_S = 60.0


class HeadSigner:
    """Asks the head of the cluster that this process is connected to; its state is in `home` there too.

    (request, node, hours) -> Signed. Raises Unavailable where the head does not answer.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def __call__(self, request: bytes, node: str, hours: float) -> Signed:
        """Block until the head has signed."""
        heads = [each["NodeID"] for each in ray.nodes() if each["Alive"] and HEAD in each["Resources"]]
        if not heads:
            raise Unavailable(f"Ray knows no head node that could sign the certificate of {node}")
        return Signed(*_on(heads[0], _sign, str(self._home), request, node, hours))


def renew_everywhere(home: Path, hours: float) -> list[tuple[str, str]]:
    """New certificates on every node of the cluster that this process is connected to: node, and what went wrong."""
    told: list[tuple[str, str]] = []
    for each in ray.nodes():
        if not each["Alive"]:
            continue
        try:
            told += [(node, "") for node in _on(each["NodeID"], _renew, str(home), hours)]
        except Unavailable as error:
            told.append((each["NodeManagerAddress"], error.message))
    return told


def node_name(config: Config) -> str:
    """The node that this process is on, as actors name it and as they listen."""
    return "127.0.0.1" if config.ray.bind == "loopback" else ray.util.get_node_ip_address()


def _on(node_id: str, function: Any, *arguments: Any) -> Any:
    """What `function` returns on that node."""
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(function).options(num_cpus=0, scheduling_strategy=strategy, max_retries=1)
    try:
        return ray.get(task.remote(*arguments), timeout=ANSWER_S)
    except ray.exceptions.RayTaskError as error:
        raise Unavailable(f"{type(error.cause).__name__}: {error.cause}") from None
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise Unavailable(f"node {node_id[:8]} did not answer: {error}") from None


def _sign(home: str, request: bytes, node: str, hours: float) -> tuple[bytes, bytes]:
    signed = authority_of(Path(home)).sign(request, node, hours)
    return signed.chain, signed.authorities


def _renew(home: str, hours: float) -> list[str]:
    return renew_here(Path(home), hours, HeadSigner(Path(home)))
