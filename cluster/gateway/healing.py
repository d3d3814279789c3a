"""Token healing: a prompt's last token is taken back, and the answer held to begin with its text.

A prompt that ends within a word, or in the middle of what the tokenizer writes as one token ("http:"), leaves a model
where it never was in training: "http" and ":" were one token with "//". Taken back one token, the model may draw that.
(Lundberg 2023, "The Art of Prompt Design: Prompt Boundaries and Token Healing")
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary
from protos.gen import inference_pb2

MOST_TAKEN = 4
"""Tokens that a character may be cut into: so many are taken back to have whole ones."""


class Healed(NamedTuple):
    """A prompt without its end."""

    ids: Sequence[int]
    tail: str
    """The text taken back; the answer begins with it. Empty where the prompt stays as it is."""

    @property
    def grammar(self) -> inference_pb2.Grammar | None:
        """What the answer must be; None where that is nothing."""
        return inference_pb2.Grammar(regex=f"{re.escape(self.tail)}(?s:.*)") if self.tail else None


def heal(ids: Sequence[int], vocabulary: Vocabulary) -> Healed:
    """Take back the last token, or the last few where that is part of a character.

    A prompt of one token, and one that ends with a special token, which no text goes on with, stay as they are.
    Raises InvalidArgument where the model has no token that ends an answer, so that none can be held to a form.
    """
    if not vocabulary.eos_ids:
        raise InvalidArgument(
            "this model has no token that ends an answer; leave token_healing out", param="token_healing"
        )
    for taken in range(1, min(MOST_TAKEN, len(ids) - 1) + 1):
        tail = ids[len(ids) - taken :]
        if not vocabulary.special_ids.isdisjoint(tail):
            break
        try:
            text = b"".join(map(vocabulary.token_bytes, tail)).decode()
        except UnicodeDecodeError:
            continue
        return Healed(ids[: len(ids) - taken], text)
    return Healed(ids, "")


def check_healing(request: inference_pb2.CompleteRequest) -> None:
    """Refuse what healing cannot be had with, by name."""
    decoding = request.decoding
    asked = {
        "echo": request.echo,
        "ignore_eos": decoding.ignore_eos,
        "min_tokens": bool(decoding.min_tokens),
        "a grammar (response_format, russet.grammar)": decoding.HasField("grammar"),
    }
    for name, given in asked.items():
        if given:
            raise InvalidArgument(
                f"token_healing is set together with {name}; accepted is one of the two", param="token_healing"
            )
