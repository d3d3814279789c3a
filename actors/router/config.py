"""Settings of the router."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from actors.base.model_names import NAMED, leaves_choice
from actors.router.naming import Alias, Target

MAX_NAME = 128
MAX_TARGETS = 16
MAX_FAILURES = 0.5


class AliasConfig(BaseModel):
    """A name that leads to one model or is split between several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[str, Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]] = Field(
        min_length=1, max_length=MAX_TARGETS, description="Weight of each model, relative to the others'"
    )
    max_failures: float = Field(
        default=MAX_FAILURES,
        gt=0,
        le=1,
        description="Share of a model's recent requests that may fail before the others take its place",
    )

    def named(self, name: str) -> Alias:
        """The alias of this name."""
        targets = (Target(model, weight) for model, weight in self.models.items())
        return Alias(name, tuple(targets), self.max_failures)


def _as_alias(given: Any) -> Any:
    """A model's id stands for an alias of it."""
    return {"models": {given: 1.0}} if isinstance(given, str) else given


def problem_of(name: str, alias: AliasConfig) -> str:
    """What is wrong with a name or with an alias as a whole; empty where nothing is."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or leaves_choice(name):
        return f"accepted as a name are 1 to {MAX_NAME} printable characters, not auto, and not {NAMED}..."
    if wrong := next((model for model in alias.models if leaves_choice(model) or len(model) > MAX_NAME), None):
        return f"it leads to {wrong[:80]!r}; accepted are ids of models"
    if not any(alias.models.values()):
        return "all weights are 0; at least one must be above"
    return ""


class RouterConfig(BaseModel):
    """When a replica counts as gone, and what its score is made of. Weights are milliseconds per unit of their term."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_model: str = Field(
        default="", description='Model for requests that ask for none or "auto"; by default the first'
    )
    aliases: dict[str, Annotated[AliasConfig, BeforeValidator(_as_alias)]] = Field(
        default={},
        description="Names that lead to models: a model's id, or {models = {id = weight, ...}} for a split",
    )
    auto: Literal["learned", "default"] = Field(
        default="learned",
        description='How "auto" is decided where several models are served: by the cost router, or always the default',
    )
    stale_after_s: float = Field(default=3.0, gt=0, description="A replica not heard from for this long is not chosen")
    forget_after_s: float = Field(default=60.0, gt=0, description="And after this long it is dropped from the table")
    session_bonus_ms: float = Field(
        default=200,
        ge=0,
        description="Wait worth accepting to stay with the session's replica, where it is not known what that holds",
    )
    kv_room_penalty_ms: float = Field(
        default=500, ge=0, description="Wait that a full KV is taken to add until that is learned"
    )
    isa_bonus_ms: float = Field(
        default=1000, ge=0, description="Wait worth accepting to resume on the ISA class asked for"
    )
    failure_penalty_ms: float = Field(
        default=2000, ge=0, description="Wait that a replica whose requests all fail adds"
    )
    speed_tokens: float = Field(default=8, ge=0, description="Tokens whose time, as predicted, counts as wait")
    failure_half_life_s: float = Field(
        default=30, gt=0, description="Time in which half of a replica's failures are forgiven"
    )
    prefill_tokens_per_s: float = Field(
        default=1000, ge=1, description="Prompt speed assumed until a replica's is measured"
    )
    step_ms: float = Field(default=10, gt=0, description="Duration of a step assumed until a replica's is measured")
    others_share: float = Field(
        default=0.006,
        ge=0,
        description="Share of a prompt's time that it costs each request there, for each request on a mean replica",
    )
    explore_deviations: float = Field(
        default=0.2,
        ge=0,
        description="Standard deviations taken off a predicted wait, so that little-known replicas are tried",
    )
    explore_share: float = Field(default=0.1, ge=0, le=1, description="And at most this share of the wait")
    affinity_entries: int = Field(
        default=100_000, ge=1, description="Sessions, and prefix pages, whose replica is remembered"
    )
    history_rate: float = Field(
        default=0.1, gt=0, le=1, description="Weight of the newest request in a replica's history"
    )

    @field_validator("aliases")
    @classmethod
    def _aliases_can_be(cls, aliases: dict[str, AliasConfig]) -> dict[str, AliasConfig]:
        for name, alias in aliases.items():
            if problem := problem_of(name, alias):
                raise ValueError(f"alias {name[:80]!r}: {problem}")
        return aliases
