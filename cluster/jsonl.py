"""Files of one JSON value a line, as users bring them to the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.base.errors import InvalidArgument


def read(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Number (from 1), text and value of each line that is not blank.

    Raises InvalidArgument for a file that cannot be read, and naming the line that is no JSON.
    """
    try:
        # Not splitlines: JSON strings may hold U+2028 and other separators as they are.
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}", param="data") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, line, json.loads(line)
        except ValueError as error:
            raise InvalidArgument(
                f"line {number} of {path} is {line[:80]!r}, not JSON: {error}", param="data"
            ) from None
