"""What does not work now, and what that means to those who ask: in words."""

from collections.abc import Sequence
from typing import NamedTuple

from cluster.view.figures import grown
from cluster.view.look import Look


class Degraded(NamedTuple):
    """One thing that is missing. `what` names it, `means` says what goes on without it and what does not."""

    what: str
    means: str


_AWAY = {
    "router": (
        "Requests go by its last table, the least loaded replica first. Nothing leads them to where their session or "
        "prefix is cached; named routers, the cost router and changes of aliases answer 503."
    ),
    "memory": (
        "Chats go on. Sessions, documents, embeddings and the witness log answer 503; what was answered meanwhile "
        "waits at the gateways to be recorded."
    ),
    "learner": "Everything answers, but nothing is learned from it; records for the learner wait at the gateways.",
}


def degraded(now: Look, before: Look, replicas: Sequence[tuple[str, str, str]]) -> list[Degraded]:
    """What is missing, the widest first. `replicas`: id, model and state of each; `before`: some seconds ago."""
    found = []
    models = {model for _, model, _ in replicas if model}
    for model in sorted(models):
        if not any(state == "ready" for _, name, state in replicas if name == model):
            found.append(Degraded(model, "No replica of this model takes requests: they wait, then answer 503."))
    if not models:
        found.append(Degraded("models", "No replica is known: every request answers 503."))
    for role, means in _AWAY.items():
        if not now.of(role):
            found.append(Degraded(role, f"It does not answer. {means}"))
    if _outages(now, before):
        means = "Valkey did not answer memory: live sessions are read from the store, and graph edges wait."
        found.append(Degraded("hot tier", means))
    for name, _, state in replicas:
        if state != "ready":
            found.append(Degraded(f"replica {name}", _REPLICA.get(state, _OTHER)))
    for gateway in now.services.values():
        if gateway.role == "gateway" and gateway.problem:
            found.append(Degraded(f"gateway {gateway.replica}", "It does not answer; the others take its clients."))
    if (controller := now.services.get("controller")) is not None and controller.problem:
        means = "Models that are served go on; loading, scaling and unloading answer 503, lost nodes are not replaced."
        found.append(Degraded("controller", f"It does not answer. {means}"))
    return found


_REPLICA = {
    "away": "Its scheduler does not answer; its streams go on at other replicas, or wait for it.",
    "worker away": "Its worker does not answer; its requests wait until a new one has loaded the model.",
    "draining": "It ends the requests that it has and takes no others.",
    "starting": "It loads its model, and takes no requests yet.",
}
_OTHER = "It takes no requests."


def _outages(now: Look, before: Look) -> bool:
    for memory in now.of("memory"):
        old = before.services.get(memory.name)
        if old and not old.problem and grown(memory.figures.hot_outages, old.figures.hot_outages):
            return True
    return False
