"""A Hugging Face or MLX model directory as a spec, its weights and its vocabulary.

config.json says what the model is (with MLX's "quantization" where it is quantized), *.safetensors hold the weights,
tokenizer.json the tokenizer, tokenizer_config.json and chat_template.jinja the chat template.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import Tokenizer

from actors.base.errors import InvalidArgument
from actors.worker.models.families import HUGGING_FACE_NAMES, Family, assemble, family
from actors.worker.models.gguf_tokenizer import END_OF_TURN
from actors.worker.models.rope import frequencies, llama3
from actors.worker.models.safetensors import Quantization, SafetensorsTensors, read_json
from actors.worker.models.templates import joined
from kernels.decoder import Activation, DecoderSpec, DecoderWeights, MixtureSpec, Rope
from protos.gen import worker_pb2

_BITS = (4, 8)
_GROUP_SIZES = (32, 64, 128)


def hugging_face_decoder(directory: Path) -> tuple[Family, DecoderSpec, DecoderWeights, SafetensorsTensors]:
    """Family, spec, weights and the files' tensors.

    Raises InvalidArgument for a file that is missing or corrupt, an architecture or feature that is not supported, and
    for tensors that do not fit the config.
    """
    config = _Config(directory)
    chosen = family(config.get("model_type"), str(config.path))
    spec = _spec(config, chosen)
    quantization, overrides = _quantization(config)
    tensors = SafetensorsTensors(directory, quantization, overrides)
    # Some files keep the head beside the embedding it is tied to.
    tied = {"lm_head.weight"} if config.get("tie_word_embeddings") else set()
    buffers = {name for name in tensors.names if name.endswith("rotary_emb.inv_freq")}
    weights = assemble(
        spec,
        HUGGING_FACE_NAMES,
        tensors,
        str(directory),
        frozenset(tied | buffers),
        chosen=chosen,
        mixture=chosen.mixture,
    )
    if weights.head is weights.embedding and config.get("tie_word_embeddings") is False:
        config.refuse("tie_word_embeddings", "the files hold no lm_head.weight; true is accepted with them")
    return chosen, spec, weights, tensors


def _spec(config: "_Config", chosen: Family) -> DecoderSpec:
    if config.get("hidden_act") not in (None, "silu"):
        config.refuse("hidden_act", "silu is accepted")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            config.refuse(key, "false is accepted")
    hidden, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", heads)
    if heads % kv_heads:
        config.refuse("num_key_value_heads", f"a divisor of the {heads} heads is accepted")
    head_dim = config.positive("head_dim", hidden // heads)
    if head_dim % 2:
        config.refuse("head_dim", "an even number is accepted")
    context = config.positive("max_position_embeddings")
    if config.get("use_sliding_window", chosen.name == "mistral"):
        # Within the window, sliding attention and full attention are the same.
        context = min(context, config.positive("sliding_window", context))
    return DecoderSpec(
        layers=config.positive("num_hidden_layers", most=10_000),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=config.positive("intermediate_size"),
        vocab=config.positive("vocab_size"),
        context_length=context,
        norm_eps=config.real("rms_norm_eps", 1e-6),
        rope=Rope(_frequencies(config, head_dim), interleaved=False),
        activation=Activation.SILU,
        qkv_bias=chosen.qkv_bias,
        mixture=_mixture(config, chosen),
    )


def _mixture(config: "_Config", chosen: Family) -> MixtureSpec | None:
    if chosen.mixture is None:
        return None
    # Mixtral has its own names, and no shared expert.
    mixtral = chosen.name == "mixtral"
    experts = config.positive("num_local_experts" if mixtral else "num_experts", most=4096)
    shared = "shared_expert_intermediate_size"
    normalize = config.get("norm_topk_prob", chosen.normalize)
    if not isinstance(normalize, bool) or (mixtral and not normalize):
        config.refuse("norm_topk_prob", "true is accepted" if mixtral else "true or false is accepted")
    return MixtureSpec(
        experts=experts,
        top_k=config.positive("num_experts_per_tok", most=experts),
        intermediate=config.positive("intermediate_size" if mixtral else "moe_intermediate_size"),
        normalize=normalize,
        shared_intermediate=config.positive(shared) if chosen.name == "qwen2_moe" else 0,
    )


def _frequencies(config: "_Config", head_dim: int) -> tuple[float, ...]:
    # Newer configs keep all of it in rope_parameters.
    scaling = config.section("rope_scaling") or config.section("rope_parameters")
    base = scaling.real("rope_theta", config.real("rope_theta", 10_000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if config.get("partial_rotary_factor") not in (None, 1, 1.0):
        config.refuse("partial_rotary_factor", "1 is accepted")
    if kind == "default":
        return frequencies(head_dim, base)
    if kind == "linear":
        return frequencies(head_dim, base, scaling.real("factor"))
    if kind != "llama3":
        config.refuse("rope_scaling", "the types default, linear and llama3 are accepted")
    return llama3(
        frequencies(head_dim, base),
        factor=scaling.real("factor"),
        low_freq_factor=scaling.real("low_freq_factor"),
        high_freq_factor=scaling.real("high_freq_factor"),
        original_context=scaling.positive("original_max_position_embeddings"),
    )


def _quantization(config: "_Config") -> tuple[Quantization | None, dict[str, Quantization]]:
    """(of all matrices, of single ones by module path). MLX writes both into one object; `false` says dense."""
    section = config.section("quantization")
    if not section:
        if config.get("quantization_config"):
            config.refuse("quantization_config", 'MLX\'s "quantization" is accepted (mlx_lm.convert makes it)')
        return None, {}
    overrides = {
        key: _one_quantization(section.section(key)) for key, value in section.values.items() if isinstance(value, dict)
    }
    return _one_quantization(section), overrides


def _one_quantization(section: "_Config") -> Quantization:
    bits, group_size = section.positive("bits"), section.positive("group_size")
    if section.get("mode", "affine") != "affine":
        section.refuse("mode", "affine is accepted")
    if bits not in _BITS:
        section.refuse("bits", f"accepted are {_BITS}")
    if group_size not in _GROUP_SIZES:
        section.refuse("group_size", f"accepted are {_GROUP_SIZES}")
    return Quantization(bits, group_size)


def hugging_face_vocabulary(directory: Path, rows: int) -> worker_pb2.Vocabulary:
    """Tokenizer, chat template and special ids of a model whose head has `rows` rows."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise InvalidArgument(
            f"{directory}: no tokenizer.json. Save the tokenizer with transformers (PreTrainedTokenizerFast)"
            " beside the weights.",
            param="model",
        )
    tokenizer_json = json.dumps(read_json(path), ensure_ascii=False, separators=(",", ":")).encode()
    try:
        tokenizer = Tokenizer.from_buffer(tokenizer_json)
    except Exception as error:  # the library raises bare Exception
        raise InvalidArgument(f"{path}: no tokenizer ({error}). Download it again.", param="model") from error
    if tokenizer.get_vocab_size() > rows:
        raise InvalidArgument(
            f"{path}: {tokenizer.get_vocab_size()} tokens, but the embedding has only {rows} rows.", param="model"
        )
    settings = _optional(directory / "tokenizer_config.json")
    generation = _optional(directory / "generation_config.json")
    config = read_json(directory / "config.json")

    special = {entry.content for entry in tokenizer.get_added_tokens_decoder().values() if entry.special}
    ends = [tokenizer.token_to_id(text) for text in (*special & END_OF_TURN, _text(settings.get("eos_token")) or "")]
    for source in (config, generation):
        ids = source.get("eos_token_id")
        ends += ids if isinstance(ids, list) else [ids]
    bos = tokenizer.token_to_id(_text(settings.get("bos_token")) or "")
    if bos is None:
        bos = config.get("bos_token_id")
    known = [token for token in (*ends, bos) if token is not None]
    if not all(type(token) is int and 0 <= token < rows for token in known):
        raise InvalidArgument(f"{directory}: special token ids {known}; 0 to {rows - 1} are accepted.", param="model")
    return worker_pb2.Vocabulary(
        tokenizer_json=tokenizer_json,
        chat_template=_chat_template(directory, settings),
        eos_ids=sorted({token for token in ends if token is not None}),
        bos_id=bos,
        # The tokenizer's own post-processor knows, whatever the settings say.
        add_bos=bos is not None and tokenizer.encode("a").ids[:1] == [bos],
        vocab_size=rows,
    )


def _chat_template(directory: Path, settings: dict[str, Any]) -> str:
    file = directory / "chat_template.jinja"
    if file.is_file():
        tool_use = directory / "additional_chat_templates" / "tool_use.jinja"
        return joined(file.read_text("utf-8"), tool_use.read_text("utf-8") if tool_use.is_file() else "")
    template = settings.get("chat_template") or ""
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = joined(named.get("default", ""), named.get("tool_use"))
    if not isinstance(template, str):
        raise InvalidArgument(
            f"{directory}: chat_template is {type(template).__name__}; a string is accepted.", param="model"
        )
    return template


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _text(token: Any) -> str | None:
    """A special token's text: written as a string or as an AddedToken."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


class _Config:
    """config.json or an object in it, checked where it is read. False where the object is absent or empty."""

    def __init__(self, directory: Path, values: dict[str, Any] | None = None) -> None:
        self.path = directory / "config.json"
        if values is None:
            if not self.path.is_file():
                raise InvalidArgument(f"{directory}: no config.json in this directory.", param="model")
            values = read_json(self.path)
        self.values = values

    def __bool__(self) -> bool:
        return bool(self.values)

    def section(self, key: str) -> "_Config":
        """The object at `key`."""
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            self.refuse(key, "an object is accepted")
        return _Config(self.path.parent, value)

    def get(self, key: str, default: Any = None) -> Any:
        """The value; `default` where it is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def positive(self, key: str, default: int | None = None, most: int = 1 << 31) -> int:
        """A whole number from 1 to `most`."""
        value = self.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            self.refuse(key, f"a whole number from 1 to {most} is accepted")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            self.refuse(key, "a finite number above 0 is accepted")
        return float(value)

    def refuse(self, key: str, accepted: str) -> NoReturn:
        """An error that names the key and its value."""
        raise InvalidArgument(f"{self.path}: {key} is {self.values.get(key)!r}; {accepted}.", param="model")
