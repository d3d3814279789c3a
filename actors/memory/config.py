"""Settings of the memory actor."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    SerializationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from actors.base.errors import InvalidArgument
from actors.memory.quality.calibration import Calibration


class MemoryConfig(BaseModel):
    """Where memory keeps what, for how long, and how it batches its writes."""

    # An error of the section as a whole would show all of it, the server's key too.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    directory: Path | None = Field(default=None, description="Stores and the hot tier; by default home/memory")
    key_file: Path | None = Field(
        default=None, description="Cluster key, created with mode 0600; by default home/cluster.key"
    )
    store: Literal["embedded", "server"] = Field(
        default="embedded",
        description="What keeps the collections: Qdrant in memory's process, for one node, or a Qdrant server",
    )
    server_url: str | None = Field(
        default=None, pattern=r"^https?://[^@/]+/?$", description="The Qdrant server, as https://host:6333"
    )
    server_key: SecretStr | None = Field(
        default=None, description="Its API key, best in RUSSET_MEMORY__SERVER_KEY; never shown"
    )
    server_key_file: Path | None = Field(
        default=None, description="A file that holds its API key, mode 0600, instead of server_key"
    )
    server_ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) to trust for it; by default the public authorities"
    )
    server_prefix: str = Field(
        default="russet",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="What the names of its collections begin with; another cluster on the same server needs another",
    )
    server_timeout_s: int = Field(default=5, ge=1, le=300, description="Longest wait for one of its answers")
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
    document_bytes: int = Field(
        default=4 << 20, ge=1 << 10, le=16 << 20, description="Largest file accepted for vector stores"
    )
    document_files: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Most files kept; past it none is taken"
    )
    witness_queue: int = Field(
        default=10_000, ge=1, description="Entries that may wait to be written; past it they are dropped"
    )
    witness_batch: int = Field(default=250, ge=1, le=10_000, description="Entries written together")
    witness_flush_s: float = Field(default=1.0, gt=0, le=60, description="Longest that an entry waits for others")
    witness_unembedded: int = Field(
        default=100_000,
        ge=0,
        description="Questions that may wait to be embedded; entries past that stay without an embedding",
    )
    witness_sign_every: int = Field(
        default=1000, ge=1, description="Entries after which the witness log's head is signed and kept"
    )
    witness_heads_file: Path | None = Field(
        default=None,
        description="Where signed heads are kept: best a place where lines can be added but not changed; "
        "by default memory.directory/witness.heads",
    )
    witness_keep_s: float = Field(
        default=7 * 86400, gt=0, le=1e9, description="Witness entries of periods older than this are archived"
    )
    witness_period_s: float = Field(
        default=86400, gt=0, le=1e9, description="Periods (from the epoch on) that are archived as a whole"
    )
    witness_archive_keep_s: float | None = Field(
        default=None, gt=0, le=1e9, description="Archived witness entries older than this are removed; unset is never"
    )
    similar_edges: int = Field(
        default=8, ge=1, le=64, description="Most `similar` edges of a node of the graph; the lightest is dropped"
    )
    similar_cosine: float = Field(
        default=0.85, gt=0, le=1, description="Nodes of the graph with a larger cosine get a `similar` edge"
    )
    graph_degree: int = Field(
        default=256, ge=1, le=10_000, description="Most edges of a node of any other kind; the lightest is dropped"
    )
    graph_edges: int = Field(
        default=1_000_000, ge=1, description="Most edges in all; past it the node touched longest ago loses its edges"
    )
    graph_half_life_s: float = Field(
        default=30 * 86400, gt=0, le=1e9, description="Edges by use lose half of their weight in this time"
    )
    graph_nodes: int = Field(
        default=50_000,
        ge=1,
        le=10_000_000,
        description="Most nodes of the graph that are found by similarity; past it the oldest is forgotten",
    )
    rerank: bool = Field(
        default=True,
        description="Whether usage may have a say in the order of passages, in vector stores where it is better so",
    )
    procedures: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="Most answers kept of a tenant for having been rated well or corrected; past it the oldest is "
        "forgotten, and with 0 none is kept",
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

    @model_validator(mode="after")
    def _a_server_that_can_be_asked(self) -> Self:
        if self.store == "server" and self.server_url is None:
            raise ValueError("store is 'server' and server_url is not set; accepted: its URL, as https://host:6333")
        if self.server_key is not None and self.server_key_file is not None:
            raise ValueError("server_key and server_key_file are both set; accepted: one of them")
        url = urlsplit(self.server_url or "")
        keyed = self.server_key is not None or self.server_key_file is not None
        if keyed and url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError(
                f"server_url is {self.server_url}, which would carry its API key in the clear; accepted: an https URL"
            )
        return self

    @field_serializer("server_key", when_used="json-unless-none")
    def _hidden(self, key: SecretStr, info: SerializationInfo) -> str:
        """Hidden in logs and in `russet config`; whole only where the configuration is handed to an actor."""
        return key.get_secret_value() if (info.context or {}).get("secrets") else str(key)

    def key_of_server(self) -> str | None:
        """The Qdrant server's API key. Raises InvalidArgument for a file that cannot be read, or that others may."""
        if self.server_key is not None:
            return self.server_key.get_secret_value()
        if self.server_key_file is None:
            return None
        path = self.server_key_file
        try:
            mode, key = path.stat().st_mode & 0o777, path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(
                f"memory.server_key_file {path} cannot be read: {error}", param="memory.server_key_file"
            ) from None
        if mode & 0o077:
            raise InvalidArgument(
                f"memory.server_key_file {path} has mode {mode:04o}; others could read it: chmod 600 {path}",
                param="memory.server_key_file",
            )
        if not key or not key.isascii() or any(character.isspace() for character in key):
            raise InvalidArgument(
                f"memory.server_key_file {path} holds no key; accepted: one line, without spaces",
                param="memory.server_key_file",
            )
        return key
