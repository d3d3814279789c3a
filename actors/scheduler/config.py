"""What an operator may set about a scheduler; validated once, at start."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Policy = Literal["fcfs", "priority", "shortest", "fair"]
Strategy = Literal["first_fit", "best_fit", "round_robin"]
KvFormat = Literal["f16", "q8", "q4", "auto"]
"""f16 is exact. q8 and q4 keep a tail in full precision and hold what is older in 8 or 4 bits. auto is f16 until
memory is short, then what is older goes to 8 bits and further to 4."""


class SchedulerConfig(BaseModel):
    """One scheduler's settings; the worker's Hello may lower max_running and step_tokens to what it can take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_limit: int = Field(
        default=256, ge=1, le=65536, description="Most requests that may wait; the next is refused."
    )
    max_running: int = Field(default=64, ge=1, le=4096, description="Most rows in the batch.")
    step_tokens: int = Field(
        default=512, ge=1, le=65536, description="Token budget of one forward: decode rows, then chunks."
    )
    itl_target_ms: float = Field(
        default=25.0,
        ge=0,
        le=60000,
        description="Milliseconds between the tokens of running streams that prompt chunks are kept small for; 0 sets "
        "no limit.",
    )
    lease_tokens: int = Field(
        default=32,
        ge=2,
        le=4096,
        description="Tokens a row may decode by itself; below half of it the lease is extended.",
    )
    policy: Policy = Field(
        default="priority",
        description="Order of waiting requests. fcfs: arrival alone, priorities are ignored. priority: level, then "
        "arrival. shortest: level, then fewest tokens still to generate. fair: level, then least served tenant.",
    )
    aging_s: float = Field(
        default=10.0, gt=0, le=3600, description="Seconds of waiting that raise a request by one level."
    )
    page_strategy: Strategy = Field(default="first_fit", description="Which free pages are taken first.")
    prefix_cache: bool = Field(
        default=True,
        description="Keep pages that no sequence needs any more, and use them again where a prompt begins alike.",
    )
    kv_format: KvFormat = Field(
        default="f16",
        description="How KV is held unless a request says otherwise. f16: exactly. q8, q4: what is older than "
        "kv_tail_tokens in 8 or 4 bits. auto: f16 until memory is short, then 8 bits, then 4. f16 where a worker "
        "offers no such form.",
    )
    kv_tail_tokens: int = Field(
        default=256, ge=64, le=65536, description="Newest tokens of a sequence whose KV is never quantized."
    )
    kv_backlog: float = Field(
        default=16.0,
        ge=1,
        le=10000,
        description="Once KV memory is short: how many times the whole of it those that wait may want, after which "
        "requests are refused.",
    )
    reserve_fraction: float = Field(
        default=0.02, ge=0, lt=1, description="Share of the pages that admission leaves free for rows that already run."
    )
    heartbeat_s: float = Field(default=0.5, gt=0, le=60, description="Seconds between heartbeats to the router.")
    worker_silence_s: float = Field(
        default=120.0,
        gt=0,
        le=3600,
        description="Seconds without a result while rows may run, after which a worker is lost.",
    )
    max_recoveries: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Worker losses in a row, without a token between, after which a request is tried once more by "
        "itself; it fails where the worker is lost then too.",
    )
    max_id_chars: int = Field(
        default=256, ge=8, le=4096, description="Longest request id, tenant or session id, characters."
    )
