"""Families of decoder-only models as data: what their tensors are called, and how a spec and its weights come of them.

A family here is a llama: pre-norm blocks, rotary grouped-query attention, gated feed-forward, dense or by a mixture of
experts. Adding one is adding a row to `FAMILIES`; what differs beyond a row is refused by name.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from actors.base.errors import InvalidArgument
from kernels.decoder import DecoderSpec, DecoderWeights, Expert, LayerWeights, MixtureSpec, MixtureWeights, Weight


@dataclass(frozen=True)
class MixtureNames:
    """What a file format calls the parts of a mixture of experts, within a layer.

    stacked: gate, up and down of all experts in one tensor each; each: of one expert, `{}` for its number.
    """

    router: str
    stacked: tuple[str, str, str]
    each: tuple[str, str, str]
    shared: tuple[str, str, str]
    shared_gate: str


_QWEN_MIXTURE = MixtureNames(
    router="mlp.gate",
    stacked=("mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"),
    each=("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj"),
    shared=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"),
    shared_gate="mlp.shared_expert_gate",
)
_MIXTRAL_MIXTURE = MixtureNames(
    router="block_sparse_moe.gate",
    stacked=(
        "block_sparse_moe.switch_mlp.gate_proj",
        "block_sparse_moe.switch_mlp.up_proj",
        "block_sparse_moe.switch_mlp.down_proj",
    ),
    each=("block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3", "block_sparse_moe.experts.{}.w2"),
    shared=_QWEN_MIXTURE.shared,
    shared_gate=_QWEN_MIXTURE.shared_gate,
)
GGUF_MIXTURE = MixtureNames(
    router="ffn_gate_inp",
    stacked=("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
    each=("ffn_gate.{}", "ffn_up.{}", "ffn_down.{}"),
    shared=("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
    shared_gate="ffn_gate_inp_shexp",
)


@dataclass(frozen=True)
class Family:
    """One architecture.

    gguf: general.architecture of its GGUF files; gguf_rope_interleaved: whether they store Q and K rows for rotated
    neighbours. mixture: Hugging Face's names of a mixture's tensors; None where all layers are dense. normalize,
    gguf_normalize: whether weights of the chosen experts add up to one where the file does not say.
    """

    name: str
    gguf: str
    gguf_rope_interleaved: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    mixture: MixtureNames | None = None
    normalize: bool = False
    gguf_normalize: bool = False


FAMILIES = {
    family.name: family
    for family in (
        Family("llama", "llama", gguf_rope_interleaved=True),
        Family("mistral", "mistral", gguf_rope_interleaved=True),
        Family(
            "mixtral",
            "llama",
            gguf_rope_interleaved=True,
            mixture=_MIXTRAL_MIXTURE,
            normalize=True,
            gguf_normalize=True,
        ),
        Family("qwen2", "qwen2", gguf_rope_interleaved=False, qkv_bias=True),
        Family("qwen2_moe", "qwen2moe", gguf_rope_interleaved=False, qkv_bias=True, mixture=_QWEN_MIXTURE),
        Family("qwen3", "qwen3", gguf_rope_interleaved=False, qk_norm=True),
        Family(
            "qwen3_moe",
            "qwen3moe",
            gguf_rope_interleaved=False,
            qk_norm=True,
            mixture=_QWEN_MIXTURE,
            gguf_normalize=True,
        ),
    )
}


def family(name: object, where: str) -> Family:
    """The family that config.json calls `name` (model_type)."""
    return _known({known.name: known for known in FAMILIES.values()}, name, where)


def gguf_family(architecture: object, experts: bool, where: str) -> Family:
    """The family of a GGUF file by its general.architecture and experts: Mixtral is a llama with some."""
    # Of two families with one architecture, the one with experts comes last.
    known = {known.gguf: known for known in FAMILIES.values() if experts or known.mixture is None}
    return _known(known, architecture, where)


def _known(known: dict[str, Family], name: object, where: str) -> Family:
    if not isinstance(name, str) or name not in known:
        raise InvalidArgument(
            f"{where}: the architecture is {name!r}; supported are {', '.join(sorted(known))}.", param="model"
        )
    return known[name]


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
    q_norm: str
    k_norm: str


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
    q_norm="attn_q_norm",
    k_norm="attn_k_norm",
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
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
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

    def weight(self, name: str, index: int | None = None) -> Weight:
        """A matrix [N outputs, K inputs]; with an index, that one of a stack [.., N, K]."""
        ...


@dataclass(frozen=True)
class FileExperts:
    """The experts of a layer (kernels.decoder.Experts), read from `source` when asked for.

    names: gate, up and down, each a stack where `stacked`, else with `{}` for the expert's number.
    """

    source: TensorSource
    count: int
    names: tuple[str, str, str]
    stacked: bool

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Expert:
        if not 0 <= index < self.count:
            raise IndexError(f"expert {index} of {self.count}")
        if self.stacked:
            return Expert(*(self.source.weight(name, index) for name in self.names))
        return Expert(*(self.source.weight(name.format(index)) for name in self.names))


def assemble(
    spec: DecoderSpec,
    names: TensorNames,
    source: TensorSource,
    where: str,
    ignored: frozenset[str] = frozenset(),
    *,
    chosen: Family,
    mixture: MixtureNames | None = None,
) -> DecoderWeights:
    """Take every tensor that the spec and the family want out of `source`, its shape checked.

    A layer is a mixture, of the names given, where the source has a router for it; else it is dense.

    The head is the embedding where the source has none. A tensor that the spec has no use for (and `ignored` does not
    name) would change the model's answers if left out, so it is refused, as is a missing one.
    """
    take = _Taker(source, where)
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim

    def layer(index: int) -> LayerWeights:
        prefix = names.layer.format(index)
        experts = shared = None
        feed = (prefix + names.gate, prefix + names.up, prefix + names.down)
        width: int | None = spec.intermediate
        if spec.mixture is not None and mixture is not None and prefix + mixture.router + ".weight" in source.names:
            width = spec.mixture.shared_intermediate or None
            feed = tuple(prefix + name for name in mixture.shared)
            shared = None if width is None else take.row(prefix + mixture.shared_gate, spec.hidden)
            router = take.matrix(prefix + mixture.router, spec.mixture.experts, spec.hidden)
            experts = MixtureWeights(router, take.experts(prefix, mixture, spec.mixture, spec.hidden), shared)
        return LayerWeights(
            attention_norm=take.vector(prefix + names.attention_norm + ".weight", spec.hidden),
            q=take.matrix(prefix + names.q, queries, spec.hidden),
            k=take.matrix(prefix + names.k, keys, spec.hidden),
            v=take.matrix(prefix + names.v, keys, spec.hidden),
            o=take.matrix(prefix + names.o, spec.hidden, queries),
            mlp_norm=take.vector(prefix + names.mlp_norm + ".weight", spec.hidden),
            gate=None if width is None else take.matrix(feed[0], width, spec.hidden),
            up=None if width is None else take.matrix(feed[1], width, spec.hidden),
            down=None if width is None else take.matrix(feed[2], spec.hidden, width),
            q_bias=take.vector(prefix + names.q + ".bias", queries) if spec.qkv_bias else None,
            k_bias=take.vector(prefix + names.k + ".bias", keys) if spec.qkv_bias else None,
            v_bias=take.vector(prefix + names.v + ".bias", keys) if spec.qkv_bias else None,
            q_norm=take.vector(prefix + names.q_norm + ".weight", spec.head_dim) if chosen.qk_norm else None,
            k_norm=take.vector(prefix + names.k_norm + ".weight", spec.head_dim) if chosen.qk_norm else None,
            mixture=experts,
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

    def row(self, name: str, columns: int) -> Weight:
        """A matrix of one row, which GGUF keeps as a vector."""
        name += ".weight"
        if name in self._source.names and self._source.shape(name) == (columns,):
            self._check(name, (columns,))
            return self._source.vector(name)[None]
        return self.matrix(name.removesuffix(".weight"), 1, columns)

    def experts(self, prefix: str, names: MixtureNames, shape: MixtureSpec, hidden: int) -> FileExperts:
        sizes = ((shape.intermediate, hidden), (shape.intermediate, hidden), (hidden, shape.intermediate))
        stacked = prefix + names.stacked[0] + ".weight" in self._source.names
        kind = names.stacked if stacked else names.each
        gate, up, down = (prefix + name + ".weight" for name in kind)
        for name, size in zip((gate, up, down), sizes, strict=True):
            if stacked:
                self._check(name, (shape.experts, *size))
                continue
            for index in range(shape.experts):
                self._check(name.format(index), size)
        return FileExperts(self._source, shape.experts, (gate, up, down), stacked)

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
