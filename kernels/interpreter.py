"""The decoder interpreted with MLX operations: Metal, CUDA, and the exact specification on a CPU.

Batched and paged like the engine that drives it: prompt chunks and decode rows run through the linear layers as one
flat list of tokens, and attend in groups (kernels.paging). The KV is one K and one V array per layer, written by
scatter only and by one forward at a time, so that MLX updates the buffer in place (a pending reader would make it copy
the slab: measured at 181 ms instead of 0.1 ms for 256 MB). Shapes are padded to buckets, so that buffers are reused and
kernels that are compiled per shape stay few.

Numbers: float32 on a CPU, where rotation angles are computed in float64; bfloat16 on a GPU, as mlx-lm runs. Quantized
weights stay quantized on both: on a CPU stock MLX multiplies with them as fast (or rather as slowly) as with float32,
at an eighth of the memory. On a GPU their scales are rounded to the activations' type, which its kernels want.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np
import psutil
from numpy.typing import NDArray

from kernels import ops, paging, reference
from kernels.bell import NO_BELL, NO_ERRAND, Errand, ring, wait
from kernels.decoder import (
    Batch,
    DecoderSpec,
    DecoderWeights,
    Int32,
    Kv,
    KvTier,
    LayerWeights,
    MixtureWeights,
    Quantized,
    Weight,
)
from kernels.sampling import SampleBatch

SCRATCH_BYTES = 128 << 20
"""Bound on what one group of queries gathers and scores. (A single query may exceed it alone: over a long context.)"""

Rotation = Callable[[mx.array], mx.array]


class MlxKv:
    """A slab: K and V [layers] of [pages * page_size + spare, kv_heads, head_dim].

    `lock` is held by whoever uses the arrays: a write replaces them, so that one beside a forward would be lost.
    """

    def __init__(self, spec: DecoderSpec, pages: int, page_size: int, dtype: mx.Dtype) -> None:
        """Raises MemoryError with the bytes wanted where the device has not that many left."""
        if pages < 1 or page_size < 1:
            raise ValueError(f"pages and page_size must be at least 1, got {pages} and {page_size}")
        self.pages, self.page_size = pages, page_size
        self.lock = threading.Lock()
        self.tiers = (KvTier("f16", 0, pages, 1, page_size * spec.kv_values_per_token * dtype.size),)
        shape = (pages * page_size + paging.SPARE_SLOTS, spec.kv_heads, spec.head_dim)
        wanted = shape[0] * spec.kv_values_per_token * dtype.size
        left = _memory_left()
        if wanted > left:
            raise MemoryError(f"{pages} KV pages of {page_size} tokens want {wanted} bytes; {left} bytes are left")
        try:
            self.k = [mx.zeros(shape, dtype) for _ in range(spec.layers)]
            self.v = [mx.zeros(shape, dtype) for _ in range(spec.layers)]
            mx.eval(self.k, self.v)
        except RuntimeError as error:
            raise MemoryError(f"{pages} KV pages of {page_size} tokens want {wanted} bytes: {error}") from error

    @property
    def nbytes(self) -> int:
        """Bytes held by the slab."""
        return sum(array.nbytes for array in (*self.k, *self.v))

    def copy_pages(self, source: Int32, target: Int32) -> None:
        """Copy whole pages, all layers: page source[i] to target[i], in order."""
        if len(source) != len(target):
            raise ValueError(f"copy_pages got {len(source)} sources and {len(target)} targets")
        if len(source) == 0:
            return
        self._check((*source.tolist(), *target.tolist()))
        source, target = paging.resolve_copies(source, target)
        within = np.arange(self.page_size, dtype=np.int32)
        self._copy(*((pages[:, None] * self.page_size + within).ravel() for pages in (source, target)))

    def move_tokens(self, source: Int32, target: Int32) -> None:
        """Copy single tokens, all layers: slot source[i] to slot target[i], in order."""
        if len(source) != len(target):
            raise ValueError(f"move_tokens got {len(source)} sources and {len(target)} targets")
        if len(source) == 0:
            return
        slots = self.pages * self.page_size
        for slot in (*source.tolist(), *target.tolist()):
            if not 0 <= slot < slots:
                raise ValueError(f"slot {slot} is not in the slab; its pages have slots 0 to {slots - 1}")
        self._copy(*paging.resolve_copies(source, target))

    def _copy(self, origins: Int32, slots: Int32) -> None:
        with self.lock:
            for array in (*self.k, *self.v):
                array[mx.array(slots)] = array[mx.array(origins)]
            mx.eval(self.k, self.v)

    def demote(self, source: Int32, target: Int32) -> None:
        """Refuse: this slab has no quantized blocks."""
        if len(source) or len(target):
            raise ValueError(f"pages {source} cannot be quantized: an MLX slab has full-precision pages only")

    def release_units(self, units: Int32) -> None:
        """Nothing: a part of an MLX array cannot go back to the system."""
        self._check(units.tolist())

    def read_unit(self, unit: int, into: bytearray | memoryview | NDArray[np.uint8]) -> None:
        """Copy a page into a writable buffer of unit_bytes: K of every layer, then V."""
        target = self._bytes_of(unit, into)
        rows = slice(unit * self.page_size, (unit + 1) * self.page_size)
        with self.lock:
            parts = [np.array(array[rows].view(mx.uint8)).ravel() for array in (*self.k, *self.v)]
        np.concatenate(parts, out=target)

    def write_unit(self, unit: int, data: bytes | bytearray | memoryview | NDArray[np.uint8]) -> None:
        """Overwrite a page by bytes that read_unit gave."""
        arrays = (*self.k, *self.v)
        parts = self._bytes_of(unit, data).reshape(len(arrays), self.page_size, arrays[0].shape[1], -1)
        rows = slice(unit * self.page_size, (unit + 1) * self.page_size)
        with self.lock:
            for array, part in zip((*self.k, *self.v), parts, strict=True):
                array[rows] = mx.array(part).view(array.dtype)
            mx.eval(self.k, self.v)

    def _check(self, pages: Iterable[int]) -> None:
        for page in pages:
            if not 0 <= page < self.pages:
                raise ValueError(f"page {page} is not in the slab; pages are 0 to {self.pages - 1}")

    def _bytes_of(self, unit: int, buffer: bytes | bytearray | memoryview | NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._check([unit])
        view, wanted = np.frombuffer(buffer, np.uint8), self.tiers[0].unit_bytes
        if len(view) != wanted:
            raise ValueError(f"{len(view)} bytes for page {unit}: a unit of f16 has {wanted}")
        return view


class MlxDecoder:
    """A `Decoder` (kernels.decoder) on MLX's default device."""

    def __init__(self, spec: DecoderSpec, weights: DecoderWeights, dtype: mx.Dtype | None = None) -> None:
        """`dtype` of activations and KV: None is float32 on a CPU, bfloat16 on a GPU."""
        on_gpu = mx.default_device().type == mx.gpu
        self.spec = spec
        self._dtype = dtype or (mx.bfloat16 if on_gpu else mx.float32)
        self._weights = _prepared(weights, self._dtype)
        self._fused_rope = on_gpu
        self._isa_class = "mlx-cpu" if not on_gpu else "metal" if mx.metal.is_available() else "cuda"

    @property
    def isa_class(self) -> str:
        """metal, cuda or mlx-cpu: equal ones compute alike."""
        return self._isa_class

    @property
    def expert_counts(self) -> None:
        """None: all experts are in memory."""
        return None

    def allocate_kv(self, pages: int, page_size: int, blocks: Mapping[str, int] | None = None) -> MlxKv:
        """A slab for this decoder. Raises MemoryError with the bytes wanted where they cannot be had.

        ValueError where quantized blocks are asked for: MLX operations have none.
        """
        if blocks and any(blocks.values()):
            raise ValueError(f"blocks are {dict(blocks)}; an MLX slab has full-precision pages only")
        return MlxKv(self.spec, pages, page_size, self._dtype)

    def forward(self, batch: Batch, kv: Kv) -> mx.array:
        """Compute the batch, write its K and V into `kv`, return float32 logits [L, vocab], evaluated.

        Raises ValueError, before anything is written, for a malformed batch or a slab of another backend.
        """
        return self._run(batch, kv, NO_BELL)

    def draw(
        self, batch: Batch, sampling: SampleBatch, kv: Kv, bell: int = NO_BELL, errand: Errand = NO_ERRAND
    ) -> Int32:
        """As kernels.decoder.Decoder.draw. The bell is rung once MLX computes; the errand begins before."""
        ring(errand.begin)
        try:
            logits = self._run(batch, kv, bell)
        finally:
            wait(errand.done)
        return ops.sample(logits, sampling) if len(logits) else np.zeros(0, np.int32)

    def _run(self, batch: Batch, kv: Kv, bell: int) -> mx.array:
        if not isinstance(kv, MlxKv):
            raise ValueError(f"an MLX decoder runs on a slab from its own allocate_kv, got {type(kv).__name__}")
        paging.check(batch, self.spec.vocab, kv.pages, kv.page_size)
        if batch.hidden is not None and batch.hidden.states.shape != (len(batch.hidden.at), self.spec.hidden):
            wanted = [len(batch.hidden.at), self.spec.hidden]
            raise ValueError(f"hidden.states is {list(batch.hidden.states.shape)}; it must be {wanted}")
        if len(batch.tokens) == 0:
            ring(bell)
            return mx.zeros((0, self.spec.vocab))
        with kv.lock:
            return self._computed(batch, kv, bell)

    def _computed(self, batch: Batch, kv: MlxKv, bell: int) -> mx.array:
        x = self._blocks(batch, kv)
        logits = mx.zeros((0, self.spec.vocab))
        if len(batch.logits_at):
            states = self._final(x, batch.logits_at)
            logits = reference.linear(states, self._weights.head)[: len(batch.logits_at)].astype(mx.float32)
        hidden = mx.zeros(0) if batch.hidden is None else self._final(x, batch.hidden.at).astype(mx.float32)
        mx.async_eval(logits, hidden, kv.k, kv.v)
        ring(bell)
        mx.eval(logits, hidden, kv.k, kv.v)
        if batch.hidden is not None:
            batch.hidden.states[:] = np.array(hidden)[: len(batch.hidden.at)]
        return logits

    def _final(self, x: mx.array, at: Int32) -> mx.array:
        """The last layer's rows `at` after the final norm, padded to a bucket."""
        wanted = np.zeros(paging.bucket(len(at)), np.int32)
        wanted[: len(at)] = at
        return mx.fast.rms_norm(x[mx.array(wanted)], self._weights.final_norm, self.spec.norm_eps)

    def _blocks(self, batch: Batch, kv: MlxKv) -> mx.array:
        """All layers -> [T', hidden]; the slab's arrays become those with the batch's K and V in them."""
        spec = self.spec
        places = paging.places(batch, kv.pages, kv.page_size)
        tokens = np.zeros(len(places.slots), np.int32)
        tokens[: len(batch.tokens)] = batch.tokens
        attend = _Attend(spec, batch, kv, self._dtype)
        slots = mx.array(places.slots)
        rotate = self._rotation(places.positions)
        x = reference.embedding(mx.array(tokens), self._weights.embedding).astype(self._dtype)
        for layer, w in enumerate(self._weights.layers):
            h = mx.fast.rms_norm(x, w.attention_norm, spec.norm_eps)
            q = reference.linear(h, w.q, w.q_bias).reshape(-1, spec.heads, spec.head_dim)
            k = reference.linear(h, w.k, w.k_bias).reshape(-1, spec.kv_heads, spec.head_dim)
            v = reference.linear(h, w.v, w.v_bias).reshape(-1, spec.kv_heads, spec.head_dim)
            if w.q_norm is not None and w.k_norm is not None:
                q, k = mx.fast.rms_norm(q, w.q_norm, spec.norm_eps), mx.fast.rms_norm(k, w.k_norm, spec.norm_eps)
            rotated = rotate(mx.concatenate([q, k], axis=1))
            kv.k[layer][slots] = rotated[:, spec.heads :]
            kv.v[layer][slots] = v
            attended = attend(rotated[:, : spec.heads], kv.k[layer], kv.v[layer])
            x = x + reference.linear(attended.reshape(len(places.slots), -1), w.o)
            h = mx.fast.rms_norm(x, w.mlp_norm, spec.norm_eps)
            x = x + reference.feed_forward(h, spec, w)
        return x

    def _rotation(self, positions: Int32) -> Rotation:
        """Rotates [T', H, D] by the tokens' positions: one fused kernel on a GPU, exact angles on a CPU."""
        rope = self.spec.rope
        if not self._fused_rope:
            cosines, sines = reference.rope_angles(positions, rope)
            return lambda x: reference.rotate(x, cosines, sines, rope.interleaved)
        periods = mx.array(1.0 / np.array(rope.frequencies, np.float64)).astype(mx.float32)
        offsets = mx.array(positions)

        def rotate(x: mx.array) -> mx.array:
            dims = 2 * len(rope.frequencies)
            return mx.fast.rope(
                x[:, :, None], dims, traditional=rope.interleaved, base=None, scale=1.0, offset=offsets, freqs=periods
            )[:, :, 0]

        return rotate


class _Attend:
    """The batch's attention, its indices on the device: call it once per layer."""

    def __init__(self, spec: DecoderSpec, batch: Batch, kv: MlxKv, dtype: mx.Dtype) -> None:
        key_bytes = 2 * spec.kv_heads * spec.head_dim * dtype.size
        plan = paging.attention(batch, kv.pages, kv.page_size, key_bytes, 4 * spec.heads, SCRATCH_BYTES)
        self._scale = spec.head_dim**-0.5
        self._groups = [
            (mx.array(group.tokens), mx.array(group.slots), mx.array(group.visible.view(np.uint8)) > 0)
            for group in plan.groups
        ]
        self._order = mx.array(plan.order)

    def __call__(self, q: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """q [T', heads, D] over a layer's slab -> [T', heads, D]."""
        outputs = []
        for tokens, slots, visible in self._groups:
            out = mx.fast.scaled_dot_product_attention(
                q[tokens].transpose(0, 2, 1, 3),
                keys[slots].transpose(0, 2, 1, 3),
                values[slots].transpose(0, 2, 1, 3),
                scale=self._scale,
                mask=visible,
            )
            outputs.append(out.transpose(0, 2, 1, 3).reshape(-1, *q.shape[1:]))
        return mx.concatenate(outputs)[self._order]


def _prepared(weights: DecoderWeights, dtype: mx.Dtype) -> DecoderWeights:
    """The weights in the activations' type, so that no forward converts them; a tied head stays one object."""

    def cast(weight: Weight) -> Weight:
        if isinstance(weight, Quantized):
            return replace(weight, scales=weight.scales.astype(dtype), biases=weight.biases.astype(dtype))
        return weight.astype(dtype)

    def cast_layer(layer: LayerWeights) -> LayerWeights:
        own = {name: cast(value) for name, value in vars(layer).items() if value is not None and name != "mixture"}
        return replace(layer, **own, mixture=None if layer.mixture is None else cast_mixture(layer.mixture))

    def cast_mixture(mixture: MixtureWeights) -> MixtureWeights:
        gate = None if mixture.shared_gate is None else cast(mixture.shared_gate)
        stacked = reference.stack(mixture.experts)
        return MixtureWeights(cast(mixture.router), reference.StackedExperts(*map(cast, stacked.matrices)), gate)

    embedding = cast(weights.embedding)
    head = embedding if weights.head is weights.embedding else cast(weights.head)
    layers = tuple(cast_layer(layer) for layer in weights.layers)
    prepared = DecoderWeights(embedding, layers, weights.final_norm.astype(dtype), head)
    mx.eval([_arrays(weight) for weight in (embedding, head)], prepared.final_norm)
    for layer in layers:
        mx.eval([_arrays(value) for value in vars(layer).values() if value is not None])
    return prepared


def _arrays(weight: Weight | MixtureWeights) -> list[mx.array]:
    if isinstance(weight, MixtureWeights):
        parts = [weight.router, *reference.stack(weight.experts).matrices, weight.shared_gate]
        return [array for part in parts if part is not None for array in _arrays(part)]
    return [weight.weight, weight.scales, weight.biases] if isinstance(weight, Quantized) else [weight]


def _memory_left() -> int:
    """Bytes that the default device could still take."""
    info = mx.device_info(mx.default_device())
    if (working_set := info.get("max_recommended_working_set_size")) is not None:  # Metal
        return int(working_set) - mx.get_active_memory()
    if (free := info.get("free_memory")) is not None:  # CUDA
        return int(free)
    return psutil.virtual_memory().available
