"""Text to token ids and back: the one tokenizer, built from the vocabulary that a worker's Hello carries.

The rules of a tokenizer live in its Hugging Face tokenizer.json, which the `tokenizers` library runs. What is added
here is the exact bytes of every token, so that a stream of tokens can be turned into text without ever splitting a
UTF-8 character.
"""

import hashlib
import json
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from actors.base.errors import InvalidArgument
from protos.gen import worker_pb2

_SPACE = "▁"
"""SentencePiece's mark for a space (U+2581)."""


def digest_of(message: worker_pb2.Vocabulary) -> bytes:
    """The name of a vocabulary by its content: who holds it need not be sent it again."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


class Vocabulary:
    """A model's tokenizer. Immutable and safe to share between threads.

    Raises InvalidArgument from the constructor where tokenizer_json is not a tokenizer that this can be exact about:
    byte-level BPE, or SentencePiece pieces with or without byte fallback.
    """

    def __init__(self, message: worker_pb2.Vocabulary) -> None:
        self.message = message
        self._tokenizer = _build(message.tokenizer_json)
        document = json.loads(message.tokenizer_json)
        pieces = self._tokenizer.get_vocab(with_added_tokens=False)
        added = self._tokenizer.get_added_tokens_decoder()
        self._bytes: dict[int, bytes] = _byte_table(document, pieces)
        self._bytes.update({token: entry.content.encode() for token, entry in added.items()})
        # SentencePiece puts a space before a text; decoding a whole text takes it away again.
        start = self._tokenizer.encode("a", add_special_tokens=False).ids
        self._strips_space = b"".join(map(self.token_bytes, start)) == b" a"
        self.special_ids: frozenset[int] = frozenset(token for token, entry in added.items() if entry.special)
        self.eos_ids: frozenset[int] = frozenset(message.eos_ids)
        self.bos_id: int | None = message.bos_id if message.HasField("bos_id") else None
        self.chat_template: str = message.chat_template
        self.size: int = message.vocab_size

    @classmethod
    def from_message(cls, message: worker_pb2.Vocabulary) -> "Vocabulary":
        """The vocabulary a worker announced."""
        return cls(message)

    def encode(self, text: str, *, add_bos: bool | None = None, special: bool = True) -> list[int]:
        """Token ids of `text`.

        add_bos: start with bos_id; None means as the model wants it for a plain prompt. A rendered chat template
            brings its own beginning: pass False for it.
        special: whether special tokens written out in the text ("<|im_end|>") become their ids. False reads them as
            ordinary text, for text that nobody vouches for.
        """
        tokenizer = self._tokenizer if special else self._plain_tokenizer
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        wanted = self.message.add_bos if add_bos is None else add_bos
        if wanted and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of a whole sequence of ids; bytes that are no UTF-8 become U+FFFD. Ids past the vocabulary are empty."""
        kept = [token for token in ids if not (skip_special and token in self.special_ids)]
        text = b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._strips_space else text

    def token_bytes(self, token: int) -> bytes:
        """Exactly the bytes that a token adds to the text: perhaps part of a character.

        Rows of the head that stand for no token (padding of the matrix) are empty. Special tokens are their own text;
        `special_ids` tells them apart.
        """
        return self._bytes.get(token, b"")

    @cached_property
    def _plain_tokenizer(self) -> Tokenizer:
        """A second tokenizer that reads special tokens as text: the switch is a field, and threads share the first."""
        tokenizer = _build(self.message.tokenizer_json)
        tokenizer.encode_special_tokens = True
        return tokenizer


def _build(tokenizer_json: bytes) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(tokenizer_json)
    except Exception as error:  # the library raises bare Exception
        raise InvalidArgument(
            f"tokenizer_json ({len(tokenizer_json)} bytes) is not a tokenizer: {error}. "
            "A Hugging Face tokenizer.json is wanted.",
            param="tokenizer_json",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _byte_table(document: dict[str, Any], pieces: dict[str, int]) -> dict[int, bytes]:
    """Bytes of each ordinary piece, by the decoder that the tokenizer names."""
    kinds = _kinds(document.get("decoder"))
    if "ByteLevel" in kinds:
        alphabet = byte_of_character()
        return {
            token: bytes(alphabet[c] for c in piece) if all(c in alphabet for c in piece) else piece.encode()
            for piece, token in pieces.items()
        }
    if "ByteFallback" in kinds or "Metaspace" in kinds:
        fallback = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)} if "ByteFallback" in kinds else {}
        return {token: fallback.get(piece) or piece.replace(_SPACE, " ").encode() for piece, token in pieces.items()}
    raise InvalidArgument(
        f"the tokenizer decodes with {sorted(kinds) or 'nothing'}; "
        "accepted are ByteLevel (byte-level BPE) and ByteFallback or Metaspace (SentencePiece)",
        param="tokenizer_json",
    )


def _kinds(component: dict[str, Any] | None) -> set[str]:
    """Types of a tokenizer.json component and of all it is a sequence of."""
    if not component:
        return set()
    parts = [part for key in ("decoders", "normalizers", "pretokenizers") for part in component.get(key, ())]
    return {component["type"]}.union(*map(_kinds, parts))


def byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: the printable character that byte-level BPE writes for each byte. (gpt-2, bytes_to_unicode)"""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}
