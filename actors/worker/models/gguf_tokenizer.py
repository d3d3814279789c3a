"""The tokenizer of a GGUF file as a Hugging Face tokenizer.json, and the vocabulary message around it.

tokenizer.ggml.model "gpt2" is byte-level BPE with merges; "llama" is SentencePiece BPE with scores and byte fallback.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from actors.base.errors import InvalidArgument
from actors.worker.models.pretokenizers import PRE_TOKENIZERS
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

    tokens: list[str] = metadata.get("tokenizer.ggml.tokens") or []
    if not tokens or not all(isinstance(token, str) for token in tokens[:1]):
        refuse("no tokenizer.ggml.tokens: the file holds no tokenizer. Take a file converted with its vocabulary")
    if len(tokens) > rows:
        refuse(f"{len(tokens)} tokens, but the embedding has only {rows} rows")
    types = metadata.get("tokenizer.ggml.token_type")
    kinds = [int(kind) for kind in types] if types is not None else [_NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        refuse(f"{len(tokens)} tokens have {len(kinds)} entries in tokenizer.ggml.token_type")

    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        name = metadata.get("tokenizer.ggml.pre", "gpt-2")
        if name not in PRE_TOKENIZERS:
            refuse(f"tokenizer.ggml.pre is {name!r}; supported are {', '.join(PRE_TOKENIZERS)}")
        document = _byte_level(tokens, kinds, metadata.get("tokenizer.ggml.merges") or [], name)
        adds_bos = PRE_TOKENIZERS[name].add_bos
    elif model == "llama":
        scores = metadata.get("tokenizer.ggml.scores")
        if scores is None or len(scores) != len(tokens):
            refuse("tokenizer.ggml.scores is missing or of another length than the tokens")
        prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        document = _sentencepiece(tokens, kinds, [float(score) for score in scores], prefix)
        adds_bos = True
    else:
        refuse(f"tokenizer.ggml.model is {model!r}; supported are gpt2 (byte-level BPE) and llama (SentencePiece)")

    if len(document["model"]["vocab"]) != len(tokens):
        refuse(f"{len(tokens) - len(document['model']['vocab'])} tokens appear twice in tokenizer.ggml.tokens: corrupt")
    named = {key: metadata.get(f"tokenizer.ggml.{key}") for key in (*_EOS_KEYS, "bos_token_id")}
    for key, token in named.items():
        if token is not None and not (isinstance(token, int) and 0 <= token < len(tokens)):
            refuse(f"tokenizer.ggml.{key} is {token!r}; ids are 0 to {len(tokens) - 1}")
    known = [
        token
        for token, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == _CONTROL and text in END_OF_TURN
    ]
    return worker_pb2.Vocabulary(
        tokenizer_json=json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(),
        chat_template=metadata.get("tokenizer.chat_template", ""),
        eos_ids=sorted({*known, *(token for key in _EOS_KEYS if (token := named[key]) is not None)}),
        bos_id=named["bos_token_id"],
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos)),
        vocab_size=rows,
    )


def _byte_level(tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], pre: str) -> dict[str, Any]:
    rules = PRE_TOKENIZERS[pre]
    vocab = _ids(tokens)
    # The space at place 0 would belong to the token itself, as in llama.cpp.
    cuts = [(merge, merge.find(" ", 1)) for merge in merges]
    return _document(
        model={
            "type": "BPE",
            "vocab": vocab,
            "merges": [[merge[:cut], merge[cut + 1 :]] for merge, cut in cuts],
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
