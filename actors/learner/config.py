"""Settings of the learner actor."""

from pydantic import BaseModel, ConfigDict, Field


class LearnerConfig(BaseModel):
    """How much the learner remembers, and how fast patterns and edges follow outcomes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trajectories: int = Field(
        default=10_000, ge=1, description="Trajectories held; past it the oldest is dropped and counted"
    )
    edge_used: float = Field(
        default=0.05, ge=0, le=1, description="Added to the edge to a pattern that decided a route"
    )
    edge_unused: float = Field(
        default=0.02, ge=0, le=1, description="Taken from the edge to a pattern retrieved in vain"
    )
    edge_answered: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the edge from a question to a passage that its answer used"
    )
    edge_follows: float = Field(default=0.5, ge=0, le=1, description="Weight of the edge from a turn to the one before")
    queue: int = Field(
        default=10_000, ge=1, description="Updates that may wait for memory; past it the oldest is dropped and counted"
    )
    retry_s: float = Field(default=1.0, gt=0, le=60, description="Pause before memory is tried again after a failure")
