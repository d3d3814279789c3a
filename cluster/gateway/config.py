"""Settings of the gateway."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.base.security import PublicTls

ToolFormat = Literal["hermes", "smollm", "llama", "mistral", "mistral-args", "pythonic"]
"""A name of cluster.gateway.tools.registry."""


class GatewayConfig(BaseModel):
    """Everything the gateway can be told. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1", description="Address that HTTP and gRPC listen on; 0.0.0.0 is every interface"
    )
    port: int = Field(default=8000, ge=0, le=65535, description="HTTP port; 0 lets the system choose")
    grpc_port: int = Field(default=50051, ge=0, le=65535, description="gRPC port; 0 lets the system choose")
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of HTTP's and gRPC's certificate with its chain; unset is plain text"
    )
    tls_key: Path | None = Field(default=None, description="PEM file of its key; both are read again when they change")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file of the authority whose certificate every client must show; unset asks none"
    )
    api_keys_file: Path | None = Field(default=None, description="File of hashed API keys; unset asks for none")
    cors_origins: tuple[str, ...] = Field(
        default=(), description="Origins that browsers may call from; none turns CORS off"
    )
    max_body_bytes: int = Field(default=8 << 20, ge=1024, le=64 << 20, description="Largest request body, bytes")
    head_timeout_s: float = Field(
        default=10, gt=0, le=600, description="Longest a request's line and headers may take to arrive, seconds"
    )
    body_timeout_s: float = Field(
        default=30, gt=0, le=600, description="Longest a request body may take to arrive, seconds"
    )
    max_tokens_default: int | None = Field(
        default=None,
        ge=1,
        description="Most new tokens where a request names none; unset is what the context window holds",
    )
    route_timeout_s: float = Field(
        default=2, gt=0, le=60, description="Longest wait for the router's decision, seconds"
    )
    table_refresh_s: float = Field(
        default=2,
        gt=0,
        le=60,
        description="Seconds between readings of the replica table, the fallback when the router is away",
    )
    failover_wait_s: float = Field(
        default=60, ge=0, le=3600, description="Longest a request or broken stream waits for a replica, seconds"
    )
    failover_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Internal errors in a row, without a new token, after which a request fails",
    )
    session_wait_s: float = Field(
        default=60, gt=0, le=3600, description="Longest a request waits for those before it in its session, seconds"
    )
    retrieve_timeout_s: float = Field(
        default=5, gt=0, le=60, description="Longest a request waits for the passages that it asks for, seconds"
    )
    health_ttl_s: float = Field(default=3, ge=0, le=300, description="How long a health answer is reused, seconds")
    health_timeout_s: float = Field(
        default=10, gt=0, le=300, description="Longest the health check's token may take, seconds"
    )
    template_timeout_s: float = Field(default=2, gt=0, le=60, description="Longest a chat template may run, seconds")
    template_max_chars: int = Field(
        default=16 << 20, ge=1024, description="Longest prompt a chat template may render, characters"
    )
    grammar_timeout_s: float = Field(
        default=5, gt=0, le=60, description="Longest a request's grammar or JSON schema may take to compile, seconds"
    )
    tool_formats: dict[str, ToolFormat] = Field(
        default={},
        description="Format in which a model writes tool calls, by model id; unset is what its chat template shows",
    )
    record_queue: int = Field(
        default=4096, ge=1, le=1 << 20, description="Finished requests that wait for memory and learner"
    )
    record_batch: int = Field(
        default=100, ge=1, le=1000, description="Finished requests sent to memory and learner at once"
    )
    spool_directory: Path | None = Field(
        default=None, description="Where witness entries wait until memory has written them; by default home/spool"
    )
    spool_bytes: int = Field(
        default=64 << 20,
        ge=1 << 16,
        le=1 << 40,
        description="Most bytes that wait there; past it the oldest are dropped",
    )
    record_delay_s: float = Field(
        default=0.2, ge=0, le=60, description="Longest a finished request waits for a batch, seconds"
    )
    quality_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Share of answers whose quality is scored while others are being made; at rest all are. 0 is none",
    )
    shutdown_grace_s: float = Field(
        default=5, ge=0, le=600, description="Time that open streams get to end at stop, seconds"
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError(
                "tls_client_ca asks clients for certificates over TLS: set tls_certificate and tls_key too"
            )
        return self

    @property
    def scheme(self) -> str:
        """Of HTTP's base URL."""
        return "https" if self.tls else "http"

    @property
    def tls(self) -> PublicTls | None:
        """How both listeners are secured; None is plain text."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return PublicTls(self.tls_certificate, self.tls_key, self.tls_client_ca)
