"""A model's weights in the CPU kernels' layout; experts in memory, or in a file that they are read from."""

import shutil
import tempfile
from typing import Any

import mlx.core as mx
import numpy as np

from kernels.cpu import _ext
from kernels.decoder import (
    DecoderSpec,
    DecoderWeights,
    ExpertMemory,
    LayerWeights,
    MixtureWeights,
    Quantized,
    Weight,
)


def pack(weight: Weight) -> Any:
    """A matrix, packed."""
    if isinstance(weight, Quantized):
        return _ext.pack_affine(weight.weight, weight.scales, weight.biases, weight.bits, weight.group_size)
    return _ext.pack_dense(weight)


def floats(values: mx.array | None) -> list[float]:
    """A vector; empty for None."""
    return [] if values is None else np.array(values.astype(mx.float32)).tolist()


def page_experts(spec: DecoderSpec, weights: DecoderWeights, memory: ExpertMemory) -> Any:
    """Pack all experts, one at a time, into a file that ends with the process -> what reads them back.

    Raises ValueError where the model has no experts, where its disk has no room for them, or where the budget does not
    hold as many of each layer as a token chooses.
    """
    mixtures = [layer.mixture for layer in weights.layers if layer.mixture is not None]
    if spec.mixture is None or not mixtures:
        raise ValueError("the model has no experts; memory for experts is accepted of mixtures of experts alone")
    experts = spec.mixture.experts
    memory.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(prefix="experts-", dir=memory.directory) as file:
        packed = _ext.ExpertFile(file.fileno())
        for mixture in mixtures:
            for index in range(experts):
                packed.append(*map(pack, mixture.experts[index]))
                if packed.nbytes == packed.largest:  # the first: now their size is known
                    _check_disk(memory, packed.largest * (experts * len(mixtures) - 1))
        return _ext.ExpertPager(packed, len(mixtures), experts, memory.nbytes, spec.mixture.top_k, memory.bonus)


def _check_disk(memory: ExpertMemory, wanted: int) -> None:
    left = shutil.disk_usage(memory.directory).free
    if wanted > left:
        raise ValueError(f"the experts want {wanted} bytes of disk in {memory.directory}; {left} are free")


def pack_layers(weights: DecoderWeights, pager: Any | None) -> list[Any]:
    """All blocks. With a pager, experts are left to it, apart from one of each layer that shows their form."""
    packed, mixtures = [], 0
    for layer in weights.layers:
        mixture = None
        if layer.mixture is not None:
            mixture = _pack_mixture(layer.mixture, pager, mixtures)
            mixtures += 1
        packed.append(_pack_layer(layer, mixture))
    return packed


def _pack_mixture(mixture: MixtureWeights, pager: Any | None, number: int) -> Any:
    count = len(mixture.experts) if pager is None else 1
    return _ext.MixturePack(
        router=pack(mixture.router),
        experts=[tuple(map(pack, mixture.experts[index])) for index in range(count)],
        shared_gate=None if mixture.shared_gate is None else pack(mixture.shared_gate),
        pager=pager,
        paged_layer=number,
    )


def _pack_layer(layer: LayerWeights, mixture: Any | None) -> Any:
    gate, up, down = (None, None, None) if layer.dense is None else map(pack, layer.dense)
    return _ext.LayerPack(
        attention_norm=floats(layer.attention_norm),
        q=pack(layer.q),
        k=pack(layer.k),
        v=pack(layer.v),
        o=pack(layer.o),
        mlp_norm=floats(layer.mlp_norm),
        gate=gate,
        up=up,
        down=down,
        q_bias=floats(layer.q_bias),
        k_bias=floats(layer.k_bias),
        v_bias=floats(layer.v_bias),
        q_norm=floats(layer.q_norm),
        k_norm=floats(layer.k_norm),
        mixture=mixture,
    )
