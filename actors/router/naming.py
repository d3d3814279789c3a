"""Which model a name leads to: a pure function of the name, of what a split goes by, and of the tables.

    asked ── "" or auto ──> the default ──┐
          ── another ─────────────────────┴──> an alias: its targets, the drawn one first
                                               a model: itself

A split draws by weighted rendezvous hashing (Thaler and Ravishankar 1998; the weights' logarithm as in Schindelhauer
and Schomaker 2005): every target has a score of its own for a key, and the highest wins. So a key stays where it is
unless its own target lost weight or another gained: from 0.9/0.1 to 0.8/0.2, a tenth of the keys move, all of them one
way. Where a target cannot serve, its keys alone go to their second.
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from actors.base.model_names import AUTO, leaves_choice
from protos.gen import router_pb2


class Target(NamedTuple):
    """A model that an alias leads to. Weights count relative to each other; 0 takes only what no other can."""

    model: str
    weight: float


@dataclass(frozen=True)
class Alias:
    """A name for one model, or for several, of which each session gets one.

    max_failures: share of a target's recent requests, 0..1, above which the others take its place.
    """

    name: str
    targets: tuple[Target, ...]
    max_failures: float


class Failures(NamedTuple):
    """Of a target's recent requests: how many failed, of how many."""

    failed: int
    recent: int


class Tables(NamedTuple):
    """What names are looked up in. `ready`: models with a replica that takes requests. `failures`: by alias and model;
    those that are not there did not fail."""

    aliases: Mapping[str, Alias]
    default: str
    ready: Collection[str]
    failures: Mapping[tuple[str, str], Failures]


class Choice(NamedTuple):
    """A model, the share of all keys that would have it first as things stand, and why it is where it is."""

    model: str
    probability: float
    reason: str


class Resolution(NamedTuple):
    """Where a name leads. `choices`: best first, never none; a later one is for where an earlier one cannot be had."""

    alias: str
    """The alias that led there; empty where none did."""
    choices: tuple[Choice, ...]
    explanation: tuple[str, ...]
    """Sentences; none for a model that was asked for by its id."""


def routing_key(request: router_pb2.RouteRequest) -> str:
    """What answers of one model are for: a session, else what the client named, else the request alone."""
    return f"{request.tenant}\0{request.session_id or request.route_key or request.request_id}"


def resolve(asked: str, key: str, tables: Tables) -> Resolution:
    """The models that `asked` may mean, best first.

    key: who asks, see routing_key.
    """
    said: list[str] = []
    name = asked
    if leaves_choice(asked):
        name = tables.default
        said.append(f"no model was {'asked for' if asked in AUTO else f'chosen by {asked}'}; {name} is the default")
    alias = tables.aliases.get(name)
    if alias is None:
        return Resolution("", (Choice(name, 1.0, "it was asked for"),), tuple(said))
    drawn = draw(alias, key)
    # Stable: within a rank the order is the draw's.
    ranked = sorted(drawn, key=lambda model: _rank(alias, model, tables))
    chosen = ranked[0]
    if len(alias.targets) == 1:
        said.append(f"{name} is an alias of {chosen}")
    else:
        said.append(f"{name} is split ({_told(alias)}); {drawn[0]} was drawn")
    if chosen != drawn[0]:
        said.append(f"{drawn[0]} {_reason(alias, drawn[0], tables)}: {chosen} takes its place")
    shares = _shares(alias, tables)
    choices = (Choice(model, shares.get(model, 0.0), _reason(alias, model, tables)) for model in ranked)
    return Resolution(name, tuple(choices), tuple(said))


class Led(Protocol):
    """A model, or an alias of one, that was chosen by what was asked, and why (actors.router.choosing)."""

    @property
    def model(self) -> str: ...

    @property
    def reasons(self) -> tuple[str, ...]: ...


def led(chosen: Led, served: Collection[str], key: str, tables: Tables) -> Resolution:
    """Where a choice leads, and after it the default: for when what was chosen cannot be had."""
    default = resolve(tables.default, key, tables)
    found = resolve(chosen.model, key, tables)
    if not any(choice.model in served for choice in found.choices):
        said = f"but {chosen.model} is not served: {tables.default} is the default"
        return default._replace(explanation=(*chosen.reasons, said, *default.explanation))
    names = {choice.model for choice in found.choices}
    later = (Choice(each.model, 0.0, "it is the default") for each in default.choices if each.model not in names)
    return Resolution(found.alias, (*found.choices, *later), (*chosen.reasons, *found.explanation))


def draw(alias: Alias, key: str) -> list[str]:
    """The alias's models in the order in which this key prefers them: the same for the same weights, always."""
    scored = [(_score(alias.name, key, target), target.model) for target in alias.targets]
    return [model for _, model in sorted(scored, reverse=True)]


def is_failing(alias: Alias, failures: Failures | None) -> bool:
    """Whether more failed of a target than may, judged by no fewer than LEAST_RECENT requests."""
    return failures is not None and failures.recent >= LEAST_RECENT and (
        failures.failed > alias.max_failures * failures.recent
    )  # fmt: skip


LEAST_RECENT = 10


def _score(alias: str, key: str, target: Target) -> float:
    """Exponential of rate 1 / weight, by hash: the target with the highest of these wins in proportion to weight."""
    text = "\0".join((alias, key, target.model)).encode(errors="surrogatepass")
    uniform = (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") + 0.5) / (1 << 64)
    return -target.weight / math.log(uniform) if uniform < 1 else math.inf


def _rank(alias: Alias, model: str, tables: Tables) -> int:
    """0: serves; 1: serves, but fails; 2: has no replica that takes requests."""
    if model not in tables.ready:
        return 2
    return 1 if is_failing(alias, tables.failures.get((alias.name, model))) else 0


def _shares(alias: Alias, tables: Tables) -> dict[str, float]:
    """The share of all keys that each model has first: of the models of the best rank there is, by weight."""
    best = min(_rank(alias, target.model, tables) for target in alias.targets)
    having = [target for target in alias.targets if _rank(alias, target.model, tables) == best]
    total = sum(target.weight for target in having)
    return {target.model: target.weight / total if total else 1 / len(having) for target in having}


def _reason(alias: Alias, model: str, tables: Tables) -> str:
    rank = _rank(alias, model, tables)
    if rank == 2:
        return "has no replica that takes requests"
    if rank == 1:
        failed, recent = tables.failures[alias.name, model]
        return f"failed {failed} of its last {recent} requests"
    return "takes requests"


def _told(alias: Alias) -> str:
    total = sum(target.weight for target in alias.targets)
    return ", ".join(f"{target.model} {100 * target.weight / total:.4g} %" for target in alias.targets)
