"""Settings of the memory actor."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class MemoryConfig(BaseModel):
    """Where memory keeps what, for how long, and how it batches its writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path | None = Field(None, description="Stores and the hot tier; by default home/memory")
    key_file: Path | None = Field(None, description="Cluster key, created with mode 0600; by default home/cluster.key")
    embedder: Path | None = Field(None, description="Directory of a sentence encoder; by default the MiniLM wheel's")
    hot_url: str | None = Field(
        None,
        pattern=r"^(redis|rediss|unix)://",
        description="Valkey/Redis URL; by default an embedded server of its own",
    )
    session_idle_s: float = Field(1800, gt=0, description="A session idle for this long leaves the hot tier")
    session_turns: int = Field(200, ge=2, description="Most turns kept of a session; older ones are dropped")
    witness_queue: int = Field(
        10_000, ge=1, description="Entries that may wait to be written; past it they are dropped"
    )
    witness_batch: int = Field(100, ge=1, description="Entries written together")
    witness_flush_s: float = Field(1.0, gt=0, description="Longest that an entry waits for others")
    hnsw_m: int = Field(32, ge=4, le=128, description="Edges per node of the HNSW index")
    hnsw_ef_construct: int = Field(200, ge=8, description="Candidates while the HNSW index is built")
    hnsw_ef_search: int = Field(64, ge=8, description="Candidates while it is searched")
    similar_edges: int = Field(8, ge=1, description="Most `similar` edges of a node; the lightest is dropped")
