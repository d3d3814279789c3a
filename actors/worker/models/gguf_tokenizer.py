"""The tokenizer of a GGUF file as a Hugging Face tokenizer.json, and the vocabulary message around it.

tokenizer.ggml.model "gpt2" is byte-level BPE with merges; "llama" is SentencePiece BPE with scores and byte fallback.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from actors.base.errors import InvalidArgument
from actors.worker.models.pretokenizers import PRE_TOKENIZERS
from actors.worker.models.templates import joined
from protos.gen import worker_pb2

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4

END_OF_TURN = frozenset(
    ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "<EOT>")
)
"""Control tokens that end an answer, whatever the metadata says (llama.cpp's end-of-generation list)."""

_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_SPACE = "▁"


def vocabulary_message(metadata: dict[str, Any], rows: int, path: Path) -> worker_pb2.Vocabulary:
    """Tokenizer, chat template and special ids of a file whose head has `rows` rows.

    Raises InvalidArgument where the metadata holds no tokenizer, an unknown one, or one that does not fit.
    """

    def refuse(problem: str) -> NoReturn:
        raise InvalidArgument(f"{path}: {problem}.", param="model")

    def strings(key: str) -> list[str]:
        value = metadata.get(key, [])
        if not isinstance(value, list):
            refuse(f"{key} is no array of strings: corrupt")
        return value

    def numbers(key: str, kind: str) -> list[Any] | None:
        """Of NumPy kind i (whole) or f (real), one for each token; None where the key is absent."""
        value = metadata.get(key)
        if value is not None and not (isinstance(value, np.ndarray) and value.dtype.kind == kind):
            refuse(f"{key} is no array of numbers: corrupt")
        if value is not None and len(value) != len(tokens):
            refuse(f"{key} has {len(value)} entries for {len(tokens)} tokens")
        return None if value is None else value.tolist()

    tokens = strings("tokenizer.ggml.tokens")
    if not tokens:
        refuse("no tokenizer.ggml.tokens: the file holds no tokenizer. Take a file converted with its vocabulary")
    if len(tokens) > rows:
        refuse(f"{len(tokens)} tokens, but the embedding has only {rows} rows")
    if len(set(tokens)) != len(tokens):
        refuse(f"{len(tokens) - len(set(tokens))} tokens appear twice in tokenizer.ggml.tokens: corrupt")
    kinds = numbers("tokenizer.ggml.token_type", "i") or [_NORMAL] * len(tokens)

    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        name = metadata.get("tokenizer.ggml.pre", "gpt-2")
        if not isinstance(name, str) or name not in PRE_TOKENIZERS:
            refuse(f"tokenizer.ggml.pre is {name!r}; supported are {', '.join(PRE_TOKENIZERS)}")
        merges = [_pair(merge) for merge in strings("tokenizer.ggml.merges")]
        known = set(tokens)
        unknown = [pair for pair in merges if not known.issuperset((*pair, "".join(pair)))]
        if unknown:
            refuse(f"the merge {unknown[0]} is not of tokens: corrupt")
        document = _byte_level(tokens, kinds, merges, name)
        adds_bos = PRE_TOKENIZERS[name].add_bos
    elif model == "llama":
        scores = numbers("tokenizer.ggml.scores", "f")
        if scores is None:
            refuse("tokenizer.ggml.scores is missing")
        prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        document = _sentencepiece(tokens, kinds, scores, prefix)
        adds_bos = True
    else:
        refuse(f"tokenizer.ggml.model is {model!r}; supported are gpt2 (byte-level BPE) and llama (SentencePiece)")

    named = {key: metadata.get(f"tokenizer.ggml.{key}") for key in (*_EOS_KEYS, "bos_token_id")}
    for key, token in named.items():
        if token is not None and not (isinstance(token, int) and 0 <= token < len(tokens)):
            refuse(f"tokenizer.ggml.{key} is {token!r}; ids are 0 to {len(tokens) - 1}")
    template = joined(metadata.get("tokenizer.chat_template", ""), metadata.get("tokenizer.chat_template.tool_use"))
    if not isinstance(template, str):
        refuse("tokenizer.chat_template is no string: corrupt")
    ends = [
        token
        for token, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == _CONTROL and text in END_OF_TURN
    ]
    return worker_pb2.Vocabulary(
        tokenizer_json=json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(),
        chat_template=template,
        eos_ids=sorted({*ends, *(token for key in _EOS_KEYS if (token := named[key]) is not None)}),
        bos_id=named["bos_token_id"],
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos)),
        vocab_size=rows,
    )


def _pair(merge: str) -> tuple[str, str]:
    """The two sides of a merge. A space at place 0 belongs to the token itself, as in llama.cpp."""
    cut = merge.find(" ", 1)
    return (merge, "") if cut < 0 else (merge[:cut], merge[cut + 1 :])


def _byte_level(
    tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[tuple[str, str]], pre: str
) -> dict[str, Any]:
    rules = PRE_TOKENIZERS[pre]
    vocab = _ids(tokens)
    return _document(
        model={
            "type": "BPE",
            "vocab": vocab,
            "merges": merges,
            "ignore_merges": rules.ignore_merges,
        },
        added=_added_tokens(tokens, kinds),
        normalizer=rules.normalizer,
        pre_tokenizer=rules.pre_tokenizer,
        decoder={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    )


def _sentencepiece(
    tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float], prefix: bool
) -> dict[str, Any]:
    """SentencePiece's BPE merges the pair whose union scores best: as BPE, every cut of a piece is a merge of its rank.

    (transformers, convert_slow_tokenizer.generate_merges.)
    """
    vocab = _ids(tokens)
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None)
    ranked = [
        (-scores[token], vocab[piece[:cut]], vocab[piece[cut:]], piece, cut)
        for token, piece in enumerate(tokens)
        if kinds[token] == _NORMAL
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    ranked.sort()
    spaces: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    if prefix:
        spaces.insert(0, {"type": "Prepend", "prepend": _SPACE})
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return _document(
        model={
            "type": "BPE",
            "vocab": vocab,
            "merges": [[piece[:cut], piece[cut:]] for *_, piece, cut in ranked],
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": unknown,
        },
        added=_added_tokens(tokens, kinds),
        normalizer={"type": "Sequence", "normalizers": spaces},
        pre_tokenizer=None,
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
    )


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _added_tokens(tokens: Sequence[str], kinds: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens matched in the text before anything else: control and unknown ones are special, user-defined are text."""
    return [
        {
            "id": index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != _USER_DEFINED,
        }
        for index, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _document(
    model: dict[str, Any],
    added: list[dict[str, Any]],
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
