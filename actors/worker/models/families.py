"""Families of decoder-only models as data: what their tensors are called, and how a spec and its weights come of them.

A family here is a llama: pre-norm blocks, rotary grouped-query attention, gated feed-forward. Adding one is adding a
row to `FAMILIES`; what differs beyond a row is refused by name.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from actors.base.errors import InvalidArgument
from kernels.decoder import DecoderSpec, DecoderWeights, LayerWeights, Weight


@dataclass(frozen=True)
class Family:
    """One architecture. gguf_rope_interleaved: whether its GGUF files store Q and K rows for rotated neighbours."""

    name: str
    gguf_rope_interleaved: bool
    qkv_bias: bool


FAMILIES = {
    family.name: family
    for family in (
        Family("llama", gguf_rope_interleaved=True, qkv_bias=False),
        Family("mistral", gguf_rope_interleaved=True, qkv_bias=False),
        Family("qwen2", gguf_rope_interleaved=False, qkv_bias=True),
    )
}


def family(name: object, where: str) -> Family:
    """The family called `name` (GGUF general.architecture, config.json model_type)."""
    if not isinstance(name, str) or name not in FAMILIES:
        raise InvalidArgument(
            f"{where}: the architecture is {name!r}; supported are {', '.join(sorted(FAMILIES))}.", param="model"
        )
    return FAMILIES[name]


@dataclass(frozen=True)
class TensorNames:
    """What a file format calls the tensors of a llama; `layer` holds the number's place."""

    embedding: str
    final_norm: str
    head: str
    layer: str
    attention_norm: str
    q: str
    k: str
    v: str
    o: str
    mlp_norm: str
    gate: str
    up: str
    down: str


GGUF_NAMES = TensorNames(
    embedding="token_embd",
    final_norm="output_norm",
    head="output",
    layer="blk.{}.",
    attention_norm="attn_norm",
    q="attn_q",
    k="attn_k",
    v="attn_v",
    o="attn_output",
    mlp_norm="ffn_norm",
    gate="ffn_gate",
    up="ffn_up",
    down="ffn_down",
)

HUGGING_FACE_NAMES = TensorNames(
    embedding="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    layer="model.layers.{}.",
    attention_norm="input_layernorm",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
)


class TensorSource(Protocol):
    """A file's tensors by name. Names end in .weight or .bias; a quantized matrix goes by its .weight."""

    names: frozenset[str]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, of a quantized one as it stands for."""
        ...

    def vector(self, name: str) -> mx.array:
        """A dense tensor, float32."""
        ...

    def weight(self, name: str) -> Weight:
        """A matrix [N outputs, K inputs]."""
        ...


def assemble(
    spec: DecoderSpec, names: TensorNames, source: TensorSource, where: str, ignored: frozenset[str] = frozenset()
) -> DecoderWeights:
    """Take every tensor that the spec wants out of `source`, its shape checked.

    The head is the embedding where the source has none. A tensor that the spec has no use for (and `ignored` does not
    name) would change the model's answers if left out, so it is refused, as is a missing one.
    """
    take = _Taker(source, where)
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim

    def layer(index: int) -> LayerWeights:
        prefix = names.layer.format(index)
        return LayerWeights(
            attention_norm=take.vector(prefix + names.attention_norm + ".weight", spec.hidden),
            q=take.matrix(prefix + names.q, queries, spec.hidden),
            k=take.matrix(prefix + names.k, keys, spec.hidden),
            v=take.matrix(prefix + names.v, keys, spec.hidden),
            o=take.matrix(prefix + names.o, spec.hidden, queries),
            mlp_norm=take.vector(prefix + names.mlp_norm + ".weight", spec.hidden),
            gate=take.matrix(prefix + names.gate, spec.intermediate, spec.hidden),
            up=take.matrix(prefix + names.up, spec.intermediate, spec.hidden),
            down=take.matrix(prefix + names.down, spec.hidden, spec.intermediate),
            q_bias=take.vector(prefix + names.q + ".bias", queries) if spec.qkv_bias else None,
            k_bias=take.vector(prefix + names.k + ".bias", keys) if spec.qkv_bias else None,
            v_bias=take.vector(prefix + names.v + ".bias", keys) if spec.qkv_bias else None,
        )

    embedding = take.matrix(names.embedding, spec.vocab, spec.hidden)
    weights = DecoderWeights(
        embedding=embedding,
        layers=tuple(layer(index) for index in range(spec.layers)),
        final_norm=take.vector(names.final_norm + ".weight", spec.hidden),
        head=take.matrix(names.head, spec.vocab, spec.hidden) if names.head + ".weight" in source.names else embedding,
    )
    left = sorted(source.names - take.taken - ignored)
    if left:
        raise InvalidArgument(
            f"{where}: {len(left)} tensors are none of this architecture's, first {left[0]!r}; "
            "answers without them would be wrong, so the file is not accepted.",
            param="model",
        )
    return weights


class _Taker:
    """Takes tensors out of a source, checking that they are there and have the shape the spec gives them."""

    def __init__(self, source: TensorSource, where: str) -> None:
        self.taken: set[str] = set()
        self._source = source
        self._where = where

    def matrix(self, name: str, rows: int, columns: int) -> Weight:
        self._check(name + ".weight", (rows, columns))
        return self._source.weight(name + ".weight")

    def vector(self, name: str, size: int) -> mx.array:
        self._check(name, (size,))
        return self._source.vector(name)

    def _check(self, name: str, wanted: tuple[int, ...]) -> None:
        if name not in self._source.names:
            raise InvalidArgument(f"{self._where}: tensor {name!r} is missing.", param="model")
        if self._source.shape(name) != wanted:
            raise InvalidArgument(
                f"{self._where}: tensor {name!r} has shape {self._source.shape(name)}; the model's numbers make it "
                f"{wanted}.",
                param="model",
            )
        self.taken.add(name)
