"""Settings of the router."""

from pydantic import BaseModel, ConfigDict, Field


class RouterConfig(BaseModel):
    """When a replica counts as gone, and what its score is made of. Weights are milliseconds per unit of their term."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_model: str = Field(
        default="", description='Model for requests that ask for none or "auto"; by default the first'
    )
    stale_after_s: float = Field(default=3.0, gt=0, description="A replica not heard from for this long is not chosen")
    forget_after_s: float = Field(default=60.0, gt=0, description="And after this long it is dropped from the table")
    session_bonus_ms: float = Field(
        default=200, ge=0, description="Wait worth accepting to stay with the session's replica"
    )
    kv_room_penalty_ms: float = Field(
        default=500, ge=0, description="Wait that a replica whose KV is full is taken to add"
    )
    isa_bonus_ms: float = Field(
        default=1000, ge=0, description="Wait worth accepting to resume on the ISA class asked for"
    )
    failure_penalty_ms: float = Field(
        default=2000, ge=0, description="Wait that a replica whose requests all fail adds"
    )
    speed_tokens: float = Field(default=8, ge=0, description="Tokens whose decode time, as measured, counts as wait")
    failure_half_life_s: float = Field(
        default=30, gt=0, description="Time in which half of a replica's failures are forgiven"
    )
    prefill_tokens_per_s: float = Field(
        default=1000, ge=1, description="Prompt speed assumed until a replica's is measured"
    )
    step_ms: float = Field(default=10, gt=0, description="Duration of a step assumed until a replica's is measured")
    affinity_entries: int = Field(
        default=100_000, ge=1, description="Sessions, and prefix pages, whose replica is remembered"
    )
    history_rate: float = Field(
        default=0.1, gt=0, le=1, description="Weight of the newest request in a replica's history"
    )
