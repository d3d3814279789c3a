"""What a worker is told at its start."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

EXPERT_BONUS = 0.15
"""What it is by default, where it is not to be 0."""


class WorkerConfig(BaseModel):
    """How one worker runs one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        default="smollm2-135m-instruct", min_length=1, description="Alias, GGUF file, or directory of MLX safetensors"
    )
    model_id: str = Field(
        default="", description="Name the model is served under; empty takes the alias or the file's name"
    )
    backend: Literal["auto", "cpu", "mlx"] = Field(
        default="auto",
        description="What interprets the model: our C++ primitive (cpu) or MLX operations; auto picks the faster",
    )
    kv_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes for the KV slab; 0 takes a quarter of the memory available, or what max_rows need",
    )
    page_size: int = Field(default=16, ge=1, le=256, description="Tokens a KV page holds")
    max_rows: int = Field(default=64, ge=1, le=1024, description="Most rows (sequences) of one batch")
    max_step_tokens: int = Field(
        default=512, ge=1, le=16384, description="Most tokens of one forward, prompts and decode together"
    )
    step_timeout_s: float = Field(
        default=300, gt=0, le=86400, description="Longest one forward may take; an engine stuck longer is given up"
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="Threads of the forward; 0 takes this replica's share of the cores"
    )
    cpus: tuple[int, ...] = Field(
        default=(), description="Processors that the forward's threads are bound to, one each; none binds no thread"
    )
    awake_us: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="Microseconds that a thread without work waits awake for more before it sleeps",
    )
    isa: Literal["auto", "amx", "avx512vnni", "avx2", "neon_i8mm", "neon_dotprod", "neon", "scalar"] = Field(
        default="auto", description="Instruction set of the C++ kernels; auto takes the fastest this machine has"
    )
    rounding: Literal["fine", "mixed"] = Field(
        default="fine",
        description="Of activations in the C++ kernels: fine (15 bits, hardly different from float32) or mixed "
        "(8 bits where that does little harm: faster, and now and then another word)",
    )
    speculation: Literal["auto", "off"] = Field(
        default="auto",
        description="Whether tokens are guessed and verified several at a time: auto does so while it gains time, and "
        "never changes what is said; forced tokens of grammars are taken together in any case",
    )
    draft_model: str = Field(
        default="",
        description="A smaller model with the same vocabulary that guesses where text says little (alias, file or "
        "directory); empty: none",
    )
    draft_rows: int = Field(
        default=4, ge=1, le=1024, description="Rows of full context that the draft model's KV holds; others go without"
    )
    experts_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of memory for the experts of a mixture of experts, which then lie on disk and are read when "
        "tokens choose them; 0 keeps all in memory",
    )
    expert_bonus: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How much being in memory speaks for an expert, beside logits scaled to 0..1: fewer experts are "
        "read, and answers change; by default 0.15, and 0 where deterministic",
    )
    deterministic: bool = Field(
        default=False, description="The same tokens however a request is batched, chunked or resumed"
    )

    kv_disk_bytes: int = Field(
        default=4 << 30,
        ge=0,
        description="Most bytes of KV that a replica keeps on disk, within a quarter of what is free; 0 keeps none",
    )
    kv_disk_directory: Path | None = Field(default=None, description="Where KV is kept; by default home/kv")
    key_file: Path | None = Field(
        default=None, description="Cluster key that seals KV on disk; by default the memory actor's"
    )

    @model_validator(mode="after")
    def _drafts_are_wanted(self) -> Self:
        if self.draft_model and self.speculation == "off":
            raise ValueError(f"draft_model = {self.draft_model!r} has nothing to do where speculation = 'off'")
        return self

    @model_validator(mode="after")
    def _bonuses_are_of_experts_on_disk(self) -> Self:
        if self.expert_bonus and not self.experts_memory_bytes:
            raise ValueError(
                f"expert_bonus = {self.expert_bonus} has nothing to do where experts_memory_bytes = 0: "
                "all experts are in memory"
            )
        return self

    @model_validator(mode="after")
    def _rows_fit_a_step(self) -> Self:
        if self.max_step_tokens < self.max_rows:
            raise ValueError(
                f"max_step_tokens = {self.max_step_tokens} is less than max_rows = {self.max_rows}: "
                "a step takes a token of every decoding row"
            )
        return self

    @property
    def served_name(self) -> str:
        """The name clients use: model_id, else the alias or the file's name without its suffix."""
        if self.model_id:
            return self.model_id
        return Path(self.model).name.removesuffix(".gguf") or self.model
