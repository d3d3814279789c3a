"""A llama-like GGUF file as a spec and its weights."""

from typing import Any, NoReturn

import numpy as np

from actors.base.errors import InvalidArgument
from actors.worker.models.families import GGUF_MIXTURE, GGUF_NAMES, Family, assemble, gguf_family
from actors.worker.models.gguf import GgufFile
from actors.worker.models.gguf_tensors import GgufTensors
from actors.worker.models.rope import divided, frequencies
from kernels.decoder import DecoderSpec, DecoderWeights, MixtureSpec, Rope

_ROPE_FACTORS = "rope_freqs.weight"
_UNSUPPORTED_KEYS = ("attention.clamp_kqv", "logit_scale", "attention.scale", "expert_group_count")
_SOFTMAX = 1  # llama.cpp's number of the function that makes weights of router logits; 0 says nothing


def gguf_decoder(file: GgufFile) -> tuple[Family, DecoderSpec, DecoderWeights]:
    """Family, spec and weights of a GGUF file.

    Raises InvalidArgument for an architecture or a feature that is not supported, for missing or impossible numbers,
    and for tensors that do not fit them.
    """
    architecture = file.metadata.get("general.architecture")
    experts = file.metadata.get(f"{architecture}.expert_count") not in (None, 0)
    chosen = gguf_family(architecture, experts, str(file.path))
    tensors = GgufTensors(file)
    spec = _spec(_Numbers(file, chosen.gguf), chosen, tensors)
    ignored = frozenset((_ROPE_FACTORS,))
    weights = assemble(spec, GGUF_NAMES, tensors, str(file.path), ignored, chosen=chosen, mixture=GGUF_MIXTURE)
    return chosen, spec, weights


def _spec(numbers: "_Numbers", chosen: Family, tensors: GgufTensors) -> DecoderSpec:
    for key in _UNSUPPORTED_KEYS:
        if numbers.get(key) not in (None, 0):
            numbers.refuse(key, "models without it are supported")
    hidden, heads = numbers.positive("embedding_length"), numbers.positive("attention.head_count")
    kv_heads = numbers.positive("attention.head_count_kv", heads)
    if heads % kv_heads:
        numbers.refuse("attention.head_count_kv", f"a divisor of the {heads} heads is accepted")
    head_dim = numbers.positive("attention.key_length", hidden // heads)
    if numbers.positive("attention.value_length", head_dim) != head_dim:
        numbers.refuse("attention.value_length", f"{head_dim}, the length of a key, is accepted")
    context = numbers.positive("context_length")
    # Within the window, sliding attention and full attention are the same.
    if numbers.get("attention.sliding_window"):
        context = min(context, numbers.positive("attention.sliding_window"))
    embedding = GGUF_NAMES.embedding + ".weight"
    if embedding not in tensors.names or len(tensors.shape(embedding)) != 2:
        raise InvalidArgument(f"{numbers.file.path}: the matrix {embedding!r} is missing.", param="model")
    return DecoderSpec(
        layers=numbers.positive("block_count", most=10_000),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=numbers.positive("feed_forward_length"),
        vocab=tensors.shape(embedding)[0],
        context_length=context,
        norm_eps=numbers.real("attention.layer_norm_rms_epsilon"),
        rope=Rope(_frequencies(numbers, tensors, head_dim), interleaved=chosen.gguf_rope_interleaved),
        qkv_bias=chosen.qkv_bias,
        mixture=_mixture(numbers, chosen),
    )


def _mixture(numbers: "_Numbers", chosen: Family) -> MixtureSpec | None:
    if chosen.mixture is None:
        if numbers.get("expert_count") not in (None, 0):
            numbers.refuse("expert_count", f"0 is accepted of {chosen.name}")
        return None
    if numbers.get("expert_weights_scale") not in (None, 0, 1):
        numbers.refuse("expert_weights_scale", "1 is accepted")
    if numbers.get("expert_gating_func") not in (None, 0, _SOFTMAX):
        numbers.refuse("expert_gating_func", f"{_SOFTMAX} (softmax) is accepted")
    experts, width = numbers.positive("expert_count", most=4096), numbers.positive("feed_forward_length")
    shared = numbers.positive("expert_shared_feed_forward_length", width) if chosen.name == "qwen2_moe" else 0
    normalize = numbers.get("expert_weights_norm")
    return MixtureSpec(
        experts=experts,
        top_k=numbers.positive("expert_used_count", most=experts),
        intermediate=numbers.positive("expert_feed_forward_length", width),
        normalize=chosen.gguf_normalize if normalize is None else bool(normalize),
        shared_intermediate=shared,
    )


def _frequencies(numbers: "_Numbers", tensors: GgufTensors, head_dim: int) -> tuple[float, ...]:
    dimensions = numbers.positive("rope.dimension_count", head_dim)
    if dimensions % 2 or dimensions > head_dim:
        numbers.refuse("rope.dimension_count", f"an even number up to {head_dim} is accepted")
    scaling = numbers.get("rope.scaling.type") or "none"
    # Files from before rope.scaling.type say scale_linear.
    factor = numbers.real("rope.scaling.factor", 0.0) or numbers.real("rope.scale_linear", 1.0)
    if scaling not in ("none", "linear"):
        numbers.refuse("rope.scaling.type", "none and linear (and a rope_freqs tensor) are accepted")
    linear = scaling == "linear" or numbers.get("rope.scale_linear") is not None
    plain = frequencies(dimensions, numbers.real("rope.freq_base", 10_000.0), factor if linear else 1.0)
    if _ROPE_FACTORS not in tensors.names:
        return plain
    factors = np.asarray(tensors.vector(_ROPE_FACTORS)).tolist()
    if tensors.shape(_ROPE_FACTORS) != (len(plain),) or not all(0 < value < float("inf") for value in factors):
        raise InvalidArgument(
            f"{numbers.file.path}: {_ROPE_FACTORS} has shape {tensors.shape(_ROPE_FACTORS)}; {len(plain)} positive "
            "factors are accepted.",
            param="model",
        )
    return divided(plain, factors)


class _Numbers:
    """The architecture's own metadata, checked where it is read."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file = file
        self._prefix = architecture + "."

    def get(self, key: str) -> Any:
        """The value, or None. One value of each is a property of the model; an array is one of each layer."""
        value = self.file.metadata.get(self._prefix + key)
        if isinstance(value, list | np.ndarray):
            self.refuse(key, "one value for all layers is accepted")
        return value

    def positive(self, key: str, default: int | None = None, most: int = 1 << 31) -> int:
        """A whole number from 1 to `most`."""
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= most:
            self.refuse(key, f"a whole number from 1 to {most} is accepted")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number, not negative."""
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            self.refuse(key, "a finite number that is not negative is accepted")
        return float(value)

    def refuse(self, key: str, accepted: str) -> NoReturn:
        """An error that names the key and its value."""
        raise InvalidArgument(
            f"{self.file.path}: {self._prefix}{key} is {self.file.metadata.get(self._prefix + key)!r}; {accepted}.",
            param="model",
        )
