"""Settings of the memory actor."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from actors.memory.quality.calibration import Calibration


class MemoryConfig(BaseModel):
    """Where memory keeps what, for how long, and how it batches its writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path | None = Field(default=None, description="Stores and the hot tier; by default home/memory")
    key_file: Path | None = Field(
        default=None, description="Cluster key, created with mode 0600; by default home/cluster.key"
    )
    embedder: Path | None = Field(
        default=None, description="Directory of a sentence encoder; by default the MiniLM wheel's"
    )
    hot_url: str | None = Field(
        default=None,
        pattern=r"^(redis|rediss|unix)://",
        description="Valkey/Redis URL; by default an embedded server of its own",
    )
    session_idle_s: float = Field(
        default=1800, gt=0, le=1e6, description="A session idle for this long leaves the hot tier"
    )
    session_keep_s: float = Field(
        default=30 * 86400, gt=0, le=1e9, description="A session idle for this long is forgotten"
    )
    session_limit: int = Field(
        default=100_000, ge=1, le=10_000_000, description="Most sessions; past it the one idle the longest is forgotten"
    )
    session_turns: int = Field(
        default=200,
        ge=2,
        description="Most turns kept of a session; the oldest are dropped, but not the system messages it begins with",
    )
    session_bytes: int = Field(
        default=1 << 20, ge=1 << 10, le=16 << 20, description="Largest session accepted; a larger one is refused"
    )
    witness_queue: int = Field(
        default=10_000, ge=1, description="Entries that may wait to be written; past it they are dropped"
    )
    witness_batch: int = Field(default=100, ge=1, le=10_000, description="Entries written together")
    witness_flush_s: float = Field(default=1.0, gt=0, le=60, description="Longest that an entry waits for others")
    similar_edges: int = Field(default=8, ge=1, description="Most `similar` edges of a node; the lightest is dropped")
    graph_edges: int = Field(
        default=1_000_000, ge=1, description="Most edges in all; past it the node touched longest ago loses its edges"
    )
    quality_weights: tuple[float, float, float, float, float] = Field(
        default=(0.20, 0.25, 0.20, 0.15, 0.20),
        description="Weights of schema, coherence, diversity, temporal realism and uniqueness in an answer's quality",
    )
    quality_sentences: int = Field(
        default=4, ge=2, le=64, description="Most sentences of an answer that are embedded to score it"
    )
    quality_recent: int = Field(
        default=64, ge=1, le=1024, description="A tenant's newest answers that the next one's uniqueness is told by"
    )
    quality_neighbours: Calibration = Field(
        default=Calibration(14.8, 0.304),
        description="Slope and middle of neighbouring sentences' cosine, see docs/quality.md",
    )
    quality_answers: Calibration = Field(
        default=Calibration(16.5, 0.408),
        description="Slope and middle of an answer's cosine with its question, see docs/quality.md",
    )

    @field_validator("quality_weights")
    @classmethod
    def _some_weight(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(f"the weights are {weights}; accepted are numbers from 0, not all of them 0")
        return weights
