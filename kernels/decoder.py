"""A decoder-only model described as data, the batch it runs on, and the interface of what runs it.

`DecoderSpec` and `DecoderWeights` say what a model is; `Batch` says what one forward computes. Two interpreters run
them: `kernels.interpreter` with MLX operations (Metal, CUDA, the reference, autograd) and `kernels.cpu` with one C++
primitive. `choose` picks one per model, never per batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from kernels.bell import NO_BELL, NO_ERRAND, Errand

if TYPE_CHECKING:
    from kernels.sampling import SampleBatch  # which is written in terms of the arrays below

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

Rounding = Literal["fine", "mixed"]
"""Of the activations that quantized weights meet in our own kernels: to 15 bits, or to 8 where that does little harm.

Which groups of a row are fine in "mixed" depends on that row alone (kernels/cpu/src/linear_kernels.h).
"""


class Activation(Enum):
    """The gate of the feed-forward block: down(act(gate(x)) * up(x))."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding as data: angle of pair i at position p is p * frequencies[i].

    Every scaling (linear, Llama 3, ...) is a table of frequencies. `interleaved` rotates pairs (2i, 2i+1), as GGUF's
    permuted llama rows want; otherwise pairs (i, i + len(frequencies)), as Hugging Face stores them. Head dimensions
    past 2 * len(frequencies) are left alone.
    """

    frequencies: tuple[float, ...]
    interleaved: bool


@dataclass(frozen=True)
class MixtureSpec:
    """Feed-forward by a mixture of experts (Shazeer et al. 2017): each token goes through its `top_k` of `experts`.

    A token's weights are the softmax of its router logits: over the chosen experts alone where `normalize` (Mixtral,
    Qwen3: the same as a softmax over all, divided by the sum of the chosen), else over all (Qwen2). `intermediate` is
    an expert's width, `shared_intermediate` that of the expert every token goes through beside, 0 where there is none.
    """

    experts: int
    top_k: int
    intermediate: int
    normalize: bool
    shared_intermediate: int = 0


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder-only transformer: pre-norm (RMS), rotary attention with grouped queries, gated feed-forward.

    Layers whose weights have a mixture follow `mixture`; `intermediate` is the width of the others.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context_length: int
    norm_eps: float
    rope: Rope
    activation: Activation = Activation.SILU
    qkv_bias: bool = False
    mixture: MixtureSpec | None = None

    @property
    def kv_values_per_token(self) -> int:
        """K and V scalars that one token adds over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Quantized:
    """Affine group quantization, MLX's layout: w[n, k] = scales[n, k // group] * q[n, k] + biases[n, k // group].

    weight: uint32 [N, K * bits / 32], lowest bits first. scales, biases: float [N, K / group_size].
    GGUF's Q4_0, Q4_1 and Q8_0 map onto it exactly with group_size 32.
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array
    bits: int
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N outputs, K inputs) of the matrix it stands for."""
        return self.weight.shape[0], self.weight.shape[1] * 32 // self.bits


Weight = Quantized | mx.array
"""A matrix [N outputs, K inputs]: quantized, or dense float32, bfloat16 or float16."""


class Expert(NamedTuple):
    """One expert: gate and up [intermediate, hidden], down [hidden, intermediate]."""

    gate: Weight
    up: Weight
    down: Weight


class Experts(Protocol):
    """The experts of one layer, in order; each is read from its file when asked for, and not kept."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Expert: ...


@dataclass(frozen=True)
class MixtureWeights:
    """A mixture of experts. router: [experts, hidden].

    shared_gate: [1, hidden]; its sigmoid scales what the layer's own gate, up and down (the shared expert) add. None
    where there is no shared expert.
    """

    router: Weight
    experts: Experts
    shared_gate: Weight | None = None


class ExpertMemory(NamedTuple):
    """Experts on disk: at most `nbytes` of them in memory, an equal part for each layer, the others in a file without a
    name in `directory`, and read when tokens choose them.

    bonus: 0 to 1, what being in memory adds to an expert's score, scores being logits scaled to 0..1 between a token's
    least and largest. 0 leaves answers as they are with all experts in memory; else a row's tokens depend on what was
    computed before.
    """

    nbytes: int
    bonus: float
    directory: Path


class ExpertCounts(NamedTuple):
    """What became of experts since the start, all layers.

    hits, misses: experts that tokens chose, by whether they were in memory then. decisions: tokens routed, each layer
    its own. paged_in, paged_out: experts read and dropped; foreseen: of those read, the ones nobody waited for yet.
    """

    hits: int
    misses: int
    decisions: int
    paged_in: int
    paged_out: int
    foreseen: int
    bytes_in: int
    decision_ns: int
    cached_bytes: int


@dataclass(frozen=True)
class LayerWeights:
    """One block. Norms are float32 [hidden]; biases float32 [N], or None where the spec has none.

    q_norm and k_norm: float32 [head_dim], RMS norms of each head before rotation, or None where the model has none.
    gate, up, down: the dense feed-forward; beside a mixture its shared expert, or None where that has none.
    """

    attention_norm: mx.array
    q: Weight
    k: Weight
    v: Weight
    o: Weight
    mlp_norm: mx.array
    gate: Weight | None
    up: Weight | None
    down: Weight | None
    q_bias: mx.array | None = None
    k_bias: mx.array | None = None
    v_bias: mx.array | None = None
    q_norm: mx.array | None = None
    k_norm: mx.array | None = None
    mixture: MixtureWeights | None = None

    @property
    def dense(self) -> tuple[Weight, Weight, Weight] | None:
        """gate, up and down, where there are some."""
        if self.gate is None or self.up is None or self.down is None:
            return None
        return self.gate, self.up, self.down


@dataclass(frozen=True)
class DecoderWeights:
    """All of a model's values. `head` is the embedding where the two are tied (one object, stored once)."""

    embedding: Weight
    layers: tuple[LayerWeights, ...]
    final_norm: mx.array
    head: Weight


class HiddenStates(NamedTuple):
    """N tokens of a batch whose hidden states are wanted, and the array that whoever computes writes them to.

    They are those after the last layer and the final norm: what the head multiplies, so that the head times one of them
    is its token's logits, and what learned draft heads read (Medusa, EAGLE; `last_hidden_state` of Hugging Face).
    """

    at: Int32  # [N], indices into tokens, ascending
    states: Float32  # [N, hidden], written


class Batch(NamedTuple):
    """One forward over rows at different places: prompt chunks and decode rows together.

    Row r brings the tokens tokens[row_starts[r]:row_starts[r + 1]] (at least one), which follow the lengths[r] tokens
    already in its KV. Token t of row r stands at position lengths[r] + t - row_starts[r]; its K and V are written to
    page page_table[r, position // page_size], slot position % page_size, and it attends to positions 0..its own.

    With `parents` a row may branch (kernels.tree): token i of those that it brings follows token parents[i] of them, or
    where that is -1 the row's KV. Its K and V are written where they would be without; its position is that of the
    token it follows plus one; and it attends to the row's KV, to the tokens that it follows, step by step, and to
    itself. Its numbers are those that it would have in a row without branches: bit for bit, where a row's do not depend
    on the batch.
    """

    tokens: Int32  # [T]
    row_starts: Int32  # [R + 1]
    lengths: Int32  # [R], tokens in the KV before this forward
    page_table: Int32  # [R, P], page ids; entries past the row's pages are -1
    logits_at: Int32  # [L], indices into tokens whose logits are wanted, ascending; may be empty
    parents: Int32 | None = None  # [T], -1 <= parents[i] < i, counted within the row; None: i - 1 everywhere
    hidden: HiddenStates | None = None


Logits = mx.array | Float32
"""Float32 [L, vocab], evaluated: an MLX array where it was computed by MLX, NumPy where the kernels own the buffer."""


KV_BLOCK = 64
"""Tokens of a quantized block."""


class KvTier(NamedTuple):
    """One form in which KV is held: pages (f16), or blocks of KV_BLOCK tokens packed in 8, 4 or 2 bits.

    A unit is given and taken as a whole: a page, or a block, which stands in page tables as unit_pages neighbouring
    ids. Page ids of all tiers are distinct.
    """

    format: str  # f16, q8, q4 or q2
    first_page: int
    units: int
    unit_pages: int  # 1 for f16, else KV_BLOCK // page_size
    unit_bytes: int


class Kv(Protocol):
    """The physical KV slab of one model, for every layer.

    `pages` pages of `page_size` tokens in full precision, which forwards write, and quantized blocks, which are filled
    by `demote` and `write_unit` alone. Page tables may list pages of any tier where nothing is written. A bad id or
    size gives a ValueError with what is accepted, before anything is changed.
    """

    pages: int
    page_size: int

    @property
    def tiers(self) -> tuple[KvTier, ...]:
        """The forms there are, f16 first; the finest of the others next."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the full-precision pages, all written."""
        ...

    def copy_pages(self, source: Int32, target: Int32) -> None:
        """Copy whole pages, all layers: page source[i] to target[i], in order. (Copy-on-write.)

        Targets are full precision; a quantized source is dequantized.
        """
        ...

    def move_tokens(self, source: Int32, target: Int32) -> None:
        """Copy K and V of single tokens, all layers: slot source[i] to slot target[i], in order.

        Slots are page * page_size + place in the page, of full-precision pages. What rope made of a key is left: a
        token keeps its position (kernels.tree: compaction).
        """
        ...

    def demote(self, source: Int32, target: Int32) -> None:
        """Quantize, in order: the tokens of the next unit_pages ids of source [U * unit_pages] into block target [U].

        Each block takes f16 pages, or all pages of a block of more bits, in their order. Blocks are named by their
        first page id; the sources are left as they are.
        """
        ...

    def release_units(self, units: Int32) -> None:
        """Give the memory of units (first page ids) back to the system, where it takes any."""
        ...

    def read_unit(self, unit: int, into: bytearray | memoryview | NDArray[np.uint8]) -> None:
        """Copy the bytes of a unit (first page id) into a writable, contiguous uint8 buffer of unit_bytes.

        This and `write_unit` may be called from any thread, for units that nobody else uses meanwhile.
        """
        ...

    def write_unit(self, unit: int, data: bytes | bytearray | memoryview | NDArray[np.uint8]) -> None:
        """Overwrite a unit by bytes that `read_unit` gave, here or on another machine of the same isa_class."""
        ...


class Decoder(Protocol):
    """What runs a model. Not thread-safe: one engine thread owns it."""

    spec: DecoderSpec

    @property
    def isa_class(self) -> str:
        """E.g. x86-avx512vnni, arm64-neon, metal, cuda, mlx-cpu."""
        ...

    @property
    def expert_counts(self) -> ExpertCounts | None:
        """What became of experts on disk so far; None where all are in memory. From any thread."""
        ...

    def allocate_kv(self, pages: int, page_size: int, blocks: Mapping[str, int] | None = None) -> Kv:
        """A slab for this decoder, with `blocks` quantized blocks by format: q8, q4, q2.

        Raises MemoryError with the bytes wanted where those of the pages cannot be had (blocks are not counted: what is
        in use of both stays within a budget that the caller keeps), ValueError for blocks that it does not offer.
        """
        ...

    def forward(self, batch: Batch, kv: Kv) -> Logits:
        """Compute the batch, write its K and V into `kv`, return float32 logits [L, vocab], evaluated."""
        ...

    def draw(
        self, batch: Batch, sampling: "SampleBatch", kv: Kv, bell: int = NO_BELL, errand: Errand = NO_ERRAND
    ) -> Int32:
        """`forward`, then a token for each row of its logits -> ids [L] (kernels.sampling): the step of an engine.

        `bell` is rung (kernels.bell) once this thread can do without the GIL: whoever waits for it has until the end.
        So has the `errand` that fills the masks.
        """
        ...
