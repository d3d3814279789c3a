"""The CPU decoder: a `Decoder` (kernels/decoder.py) whose whole forward is one C++ call over packed weights.

Weights are repacked once, and not kept in any other form. K and V are half precision. Numbers: quantized weights meet
activations quantized to 15 bits per 32 inputs, or to 8 where that does little harm ("mixed" rounding); everything else
is float32. A row's logits are the same bits whatever the batch, the chunking of its prompt and the number of threads;
replicas of one `isa_class` agree bit for bit.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import get_args

import mlx.core as mx
import numpy as np
import psutil

from kernels.bell import NO_BELL, NO_ERRAND, Errand
from kernels.cpu import _ext
from kernels.cpu.packing import floats, pack, pack_layers, page_experts
from kernels.decoder import (
    Activation,
    Batch,
    DecoderSpec,
    DecoderWeights,
    ExpertCounts,
    ExpertMemory,
    Float32,
    Int32,
    Kv,
    Quantized,
    Rounding,
    Weight,
)
from kernels.sampling import SampleBatch

MAX_STEP_TOKENS = 8192
"""Tokens that one forward takes unless told otherwise; the scratch memory is bounded by it."""

BLOCK_FORMATS = ("q8", "q4", "q2")
"""Quantized blocks of a slab, finest first."""

_ROW_QUANTUM = 32  # inputs per activation group
_MOST_CHOSEN = 64  # kernels/cpu/src/routing.h
_DENSE = (mx.float32, mx.bfloat16, mx.float16)


def supports(spec: DecoderSpec, weights: DecoderWeights) -> str | None:
    """Why this decoder cannot run the model, or None where it can. Never depends on a batch."""
    if _ext is None:
        return "the compiled CPU kernels are not there"
    if spec.heads % spec.kv_heads:
        return f"{spec.heads} heads do not divide evenly over {spec.kv_heads} kv heads"
    if 2 * len(spec.rope.frequencies) > spec.head_dim:
        return f"{len(spec.rope.frequencies)} rope frequencies do not fit into head_dim {spec.head_dim}"
    if spec.mixture is not None and spec.mixture.top_k > _MOST_CHOSEN:
        return f"{spec.mixture.top_k} experts per token; up to {_MOST_CHOSEN} are known"
    for weight in _matrices(weights):
        if isinstance(weight, Quantized):
            if weight.bits not in (4, 8) or weight.group_size not in (32, 64, 128):
                return (
                    f"{weight.bits}-bit weights in groups of {weight.group_size}; known: 4 or 8 bits in 32, 64 or 128"
                )
            if weight.shape[1] % _ROW_QUANTUM:
                return f"a quantized weight has {weight.shape[1]} inputs; they must be a multiple of {_ROW_QUANTUM}"
        elif weight.dtype not in _DENSE:
            return f"a dense weight is {weight.dtype}; float32, bfloat16 and float16 are known"
    return None


class CpuDecoder:
    """Runs a decoder-only model on the CPU kernels. Not thread-safe: one engine thread owns it.

    `experts` keeps those of a mixture on disk, apart from what its budget holds; None keeps all in memory.
    Raises ValueError for an unknown rounding, where `supports` gives a reason, where a weight's shape does not fit the
    spec, and for experts on disk of a model that has none, or more of them than budget and disk allow.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        weights: DecoderWeights,
        max_step_tokens: int = MAX_STEP_TOKENS,
        rounding: Rounding = "fine",
        experts: ExpertMemory | None = None,
    ) -> None:
        if rounding not in get_args(Rounding):
            raise ValueError(f"unknown rounding {rounding!r}; accepted: {', '.join(get_args(Rounding))}")
        if (reason := supports(spec, weights)) is not None:
            raise ValueError(f"the CPU decoder cannot run this model: {reason}")
        self.spec = spec
        self.max_step_tokens = max_step_tokens
        self.rounding = rounding
        embedding = pack(weights.embedding)
        self._bonus = 0.0 if experts is None else experts.bonus
        self._pager = None if experts is None else page_experts(spec, weights, experts)
        self._native = _ext.Decoder(
            hidden=spec.hidden,
            heads=spec.heads,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            intermediate=spec.intermediate,
            vocab=spec.vocab,
            context_length=spec.context_length,
            norm_eps=spec.norm_eps,
            frequencies=list(spec.rope.frequencies),
            interleaved=spec.rope.interleaved,
            gelu=spec.activation is Activation.GELU_TANH,
            mixture=_ext.MixtureShape(**({} if spec.mixture is None else asdict(spec.mixture))),
            embedding=embedding,
            layers=pack_layers(weights, self._pager),
            final_norm=floats(weights.final_norm),
            head=embedding if weights.head is weights.embedding else pack(weights.head),
            max_step_tokens=max_step_tokens,
            fine=rounding == "fine",
        )

    @property
    def isa_class(self) -> str:
        """Architecture, instruction set and, unless fine, rounding, e.g. x86-avx512vnni.

        With a bonus for experts in memory it says so: K and V are then not those of a decoder without.
        """
        rounding = "" if self.rounding == "fine" else f"-{self.rounding}"
        return f"{_ext.isa_class()}{rounding}" + (f"-bonus{self._bonus:g}" if self._bonus else "")

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed matrices in memory, experts on disk left out."""
        return self._native.weight_bytes

    @property
    def expert_counts(self) -> ExpertCounts | None:
        """What became of experts on disk so far; None where all are in memory. From any thread."""
        return None if self._pager is None else ExpertCounts(*self._pager.totals())

    def allocate_kv(self, pages: int, page_size: int, blocks: Mapping[str, int] | None = None) -> Kv:
        """An empty slab; memory is taken as it is written.

        Quantized blocks are q8, q4 and q2, and want pages of 16, 32 or 64 tokens; ValueError otherwise.
        MemoryError with the bytes wanted where the machine could not back all pages now: a slab that the system only
        promises would end in the process being killed later, in the middle of a batch.
        """
        blocks = blocks or {}
        if unknown := blocks.keys() - set(BLOCK_FORMATS):
            raise ValueError(f"unknown block formats {sorted(unknown)}; accepted: {', '.join(BLOCK_FORMATS)}")
        slab = self._native.allocate_kv(pages, page_size, [blocks.get(name, 0) for name in BLOCK_FORMATS])
        left = psutil.virtual_memory().available
        if slab.nbytes > left:
            raise MemoryError(f"{pages} KV pages of {page_size} tokens want {slab.nbytes} bytes; {left} bytes are left")
        return slab

    def forward(self, batch: Batch, kv: Kv) -> Float32:
        """Compute the batch, write its K and V, return logits [L, vocab]; the GIL is released meanwhile.

        The array is the kernels' own buffer, not a copy, and stays valid as long as it is referenced. ValueError names
        what is wrong with a batch, before anything is written; TypeError where an array is not contiguous int32.
        """
        return self._native.forward(kv, batch)

    def draw(
        self, batch: Batch, sampling: SampleBatch, kv: Kv, bell: int = NO_BELL, errand: Errand = NO_ERRAND
    ) -> Int32:
        """As kernels.decoder.Decoder.draw, in one call that lets the GIL go once.

        ValueError also for a malformed sampling or a row that has nothing to draw, after K and V were written.
        """
        drawn = np.empty(len(batch.logits_at), np.int32)
        self._native.draw(kv, batch, sampling, drawn, bell, *errand)
        return drawn


def _matrices(weights: DecoderWeights) -> list[Weight]:
    """All matrices; of the experts of a layer, which are of one form, the first one's."""
    found = [weights.embedding, weights.head]
    for layer in weights.layers:
        found += [layer.q, layer.k, layer.v, layer.o, *(layer.dense or ())]
        if layer.mixture is not None:
            found += [layer.mixture.router, *layer.mixture.experts[0]]
            found += [] if layer.mixture.shared_gate is None else [layer.mixture.shared_gate]
    return found
