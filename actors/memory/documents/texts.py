"""Which files are texts that can be kept: what their name ends with, and what is read from their bytes."""

import json
from pathlib import PurePath

from actors.base.errors import InvalidArgument
from actors.memory import limits

PLAIN = (".txt", ".text", ".md", ".markdown")
JSON, JSON_LINES = ".json", ".jsonl"
ACCEPTED = (*PLAIN, JSON, JSON_LINES)


def check_name(name: str) -> None:
    """Raises InvalidArgument for a file that is none of the accepted kinds."""
    limits.name(name, "filename")
    if PurePath(name).suffix.lower() not in ACCEPTED:
        raise InvalidArgument(
            f"filename is {name[-80:]!r}; accepted are names that end with {', '.join(ACCEPTED)}", param="filename"
        )


def text_of(name: str, content: bytes, most: int) -> str:
    """The text of a file of at most `most` bytes. Raises TooLarge, or InvalidArgument saying what it is not."""
    check_name(name)
    limits.size(len(content), most, f"file {name[-80:]!r}", "memory.document_bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{name[-80:]!r} is no text: byte {error.start} is not UTF-8; accepted is UTF-8", param="file"
        ) from None
    if (at := text.find("\0")) >= 0:
        raise InvalidArgument(f"{name[-80:]!r} is no text: character {at} is NUL; accepted is UTF-8", param="file")
    if not text.strip():
        raise InvalidArgument(f"{name[-80:]!r} is empty; accepted is a text", param="file")
    suffix = PurePath(name).suffix.lower()
    if suffix == JSON:
        _check_json(name, text, 1)
    elif suffix == JSON_LINES:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                _check_json(name, line, number)
    return text


def _check_json(name: str, text: str, line: int) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        at = f"line {line}: " if line > 1 else ""
        raise InvalidArgument(f"{name[-80:]!r} is no JSON: {at}{error}", param="file") from None
