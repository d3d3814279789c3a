"""Who runs where, asked of the actors themselves."""

import asyncio
from dataclasses import asdict, dataclass

from actors.base.errors import RussetError
from cluster.compose import Directory
from cluster.identity import identify
from cluster.lifecycle import ClusterState


@dataclass(frozen=True)
class Actor:
    """One actor as `russet status` shows it. state: serving, or what it said (or did not say) when asked."""

    role: str
    replica: str
    node: str
    pid: int
    address: str
    state: str


@dataclass(frozen=True)
class Status:
    """A cluster's actors; none, and no cluster, where nothing runs."""

    actors: list[Actor]
    cluster: ClusterState | None

    @property
    def healthy(self) -> bool:
        """Something runs and everything answers."""
        return bool(self.actors) and all(actor.state == "serving" for actor in self.actors)

    def as_dict(self) -> dict[str, object]:
        """The shape of `russet status --json`."""
        return {
            "actors": [asdict(actor) for actor in self.actors],
            "cluster": asdict(self.cluster) if self.cluster else None,
        }


async def gather(directory: Directory, cluster: ClusterState) -> Status:
    """Ask every published service who it is."""
    services = await directory.services()
    actors = await asyncio.gather(*(_ask(name, addresses) for name, addresses in services.items()))
    order = ["gateway", "router", "controller", "scheduler", "worker", "memory", "learner"]
    return Status(sorted(actors, key=lambda actor: (order.index(actor.role), actor.replica)), cluster)


async def _ask(name: str, addresses: list[str]) -> Actor:
    public = addresses[-1]
    try:
        who = await identify(addresses)
    except RussetError as error:
        role, _, replica = name.partition("-")
        return Actor(role, replica or "0", "", 0, public, f"no answer: {error}")
    return Actor(who.role, who.replica, who.node, who.pid, public, "serving")
