"""How many replicas a model should have: a pure policy over what its replicas tell of themselves.

Ray Serve's autoscaling counts requests at its own handles, where none of ours pass. What tells here is how long
requests wait, how full KV memory is, and how many of them run and wait for the rows there are.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

STEEPEST = 2.0
"""Most by which a number of replicas is multiplied at a time: how long requests wait does not tell by how much."""


class ScalingConfig(BaseModel):
    """When models that may have more or fewer replicas (`models.N.max_replicas`) get them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_delay_s: float = Field(
        default=2.0, gt=0, description="Where the request that waits longest at a replica waits longer, more are wanted"
    )
    kv_used: float = Field(default=0.8, gt=0, le=1, description="Share of KV memory in use that is aimed at")
    busy: float = Field(
        default=0.7, gt=0, le=1, description="Requests, running and waiting, for each that may run, that is aimed at"
    )
    tolerance: float = Field(default=0.1, ge=0, lt=1, description="How far from what is aimed at nothing is changed")
    up_after_s: float = Field(default=5.0, ge=0, description="How long more must have been wanted")
    down_after_s: float = Field(default=300.0, ge=0, description="How long fewer must have sufficed")


class Load(NamedTuple):
    """Of one replica: requests that run and wait, how many may run, the share of KV in use, and the longest wait."""

    running: int
    waiting: int
    running_limit: int
    kv_used: float
    queue_delay_s: float


class Pressure(NamedTuple):
    """How much there is to do for what is aimed at (1 is just so), and which signal says so."""

    value: float
    because: str


class Wish(NamedTuple):
    """How many replicas one look would have wanted. Seconds of any steady clock."""

    at_s: float
    replicas: int


class Decision(NamedTuple):
    """How many replicas there should be, why, and the wishes that later decisions go by."""

    replicas: int
    because: str
    wishes: tuple[Wish, ...]


def pressure(loads: Sequence[Load], aim: ScalingConfig) -> Pressure:
    """Of all replicas of a model together; the signal that says most counts."""
    rows = max(1, sum(load.running_limit for load in loads))
    requests = sum(load.running + load.waiting for load in loads)
    kv_used = sum(load.kv_used for load in loads) / max(1, len(loads))
    # The least loaded replica tells: while one has no queue the router sends requests there.
    delay_s = min((load.queue_delay_s for load in loads), default=0.0)
    late = min(delay_s / aim.queue_delay_s, STEEPEST)
    return max(
        Pressure(requests / rows / aim.busy, f"{requests} requests for {rows} rows"),
        Pressure(kv_used / aim.kv_used, f"{kv_used:.0%} of KV memory in use"),
        # A queue that moves fast enough says nothing about fewer replicas.
        Pressure(late if late > 1 else 0.0, f"requests wait {delay_s:.1f} s"),
    )


def decide(
    loads: Sequence[Load], now_s: float, least: int, most: int, aim: ScalingConfig, wishes: Sequence[Wish]
) -> Decision:
    """How many replicas the model should have, that has one for each of `loads`; between least and most.

    More where more were wanted by every look of the last up_after_s, and then the fewest of those; fewer where fewer
    sufficed by every look of the last down_after_s, and then the most of those. After a change both begin anew.
    """
    have = len(loads)
    told = pressure(loads, aim)
    apart = abs(told.value - 1) > aim.tolerance
    ideal = math.ceil(have * min(told.value, STEEPEST)) if apart else have
    recent = [wish for wish in wishes if wish.at_s >= now_s - max(aim.up_after_s, aim.down_after_s) - 1]
    recent.append(Wish(now_s, min(max(ideal, least), most)))
    more = min(_within(recent, now_s, aim.up_after_s), default=have)
    fewer = max(_within(recent, now_s, aim.down_after_s), default=have)
    chosen = more if more > have else fewer if fewer < have else have
    chosen = min(max(chosen, least), most)
    return Decision(chosen, told.because, tuple(recent) if chosen == have else ())


def _within(wishes: Sequence[Wish], now_s: float, span_s: float) -> list[int]:
    """What was wished in the last `span_s`; nothing where it is not known that far back."""
    if wishes[0].at_s > now_s - span_s:
        return []
    return [wish.replicas for wish in wishes if wish.at_s >= now_s - span_s]
