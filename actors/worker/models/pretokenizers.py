"""How byte-level BPE models cut text before merging, by the name that GGUF's tokenizer.ggml.pre gives.

Each entry is the `normalizer` and `pre_tokenizer` of a Hugging Face tokenizer.json. Names as in llama.cpp
(llama-vocab.cpp); rules as in the models' own tokenizer.json.
"""

from dataclasses import dataclass
from typing import Any

_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES_ONLY = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@dataclass(frozen=True)
class PreTokenizer:
    """ignore_merges: a piece that is a token by itself is taken without merging. add_bos: where metadata is silent."""

    pre_tokenizer: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    add_bos: bool = False


_GPT2_RULES = PreTokenizer(_GPT2)
_DIGIT_RULES = PreTokenizer(_sequence(_SINGLE_DIGITS, _GPT2))
_LLAMA3_RULES = PreTokenizer(_sequence(_split(_LLAMA3), _BYTES_ONLY), ignore_merges=True, add_bos=True)
_QWEN2_RULES = PreTokenizer(_sequence(_split(_QWEN2), _BYTES_ONLY), normalizer={"type": "NFC"})

PRE_TOKENIZERS = {
    "gpt-2": _GPT2_RULES,
    "phi-2": _GPT2_RULES,
    "smollm": _DIGIT_RULES,
    "starcoder": _DIGIT_RULES,
    "refact": _DIGIT_RULES,
    "command-r": _DIGIT_RULES,
    "codeshell": _DIGIT_RULES,
    "llama-bpe": _LLAMA3_RULES,
    "llama3": _LLAMA3_RULES,
    "llama-v3": _LLAMA3_RULES,
    "qwen2": _QWEN2_RULES,
    "deepseek-r1-qwen": _QWEN2_RULES,
}
