"""What memory accepts: every name, vector and list is bounded before anything is stored."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument, TooLarge

MAX_NAME = 256
MAX_NODE = 640
"""A node is kind:id, and a session's id holds its tenant's name too."""
MAX_LIST = 1000
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512
"""OpenAI's limits for metadata."""


def name(value: str, what: str, *, empty: bool = False, most: int = MAX_NAME) -> None:
    """Refuse an identifier of another length than 1 (0 where it may be `empty`) to `most` characters."""
    if len(value) > most or not (value or empty):
        raise InvalidArgument(f"{what} of {len(value)} characters; accepted: {0 if empty else 1} to {most}", param=what)


def listed(limit: int, default: int) -> int:
    """How many rows to return: `limit`, or `default` where it is 0. Raises InvalidArgument past MAX_LIST."""
    if limit > MAX_LIST:
        raise InvalidArgument(f"limit {limit}; accepted: 1 to {MAX_LIST}, 0 for {default}", param="limit")
    return limit or default


def vector(values: Sequence[float], width: int, what: str) -> NDArray[np.float32]:
    """As an array; refused where it is neither empty nor `width` finite numbers."""
    if not values:
        return np.empty(0, np.float32)
    if len(values) != width:
        raise InvalidArgument(f"{what} of width {len(values)}; this memory embeds with width {width}", param=what)
    array = np.array(values, np.float32)
    if not np.isfinite(array).all():
        raise InvalidArgument(f"{what} is not finite; accepted: finite numbers", param=what)
    return array


def finite(values: Sequence[float], what: str) -> None:
    """Refuse NaN and infinity."""
    if not all(map(math.isfinite, values)):
        raise InvalidArgument(f"{what} is not finite; accepted: finite numbers", param=what)


def share(value: float, what: str) -> None:
    """Refuse a number outside 0..1."""
    if not 0 <= value <= 1:
        raise InvalidArgument(f"{what} {value}; accepted: 0 to 1", param=what)


def metadata(pairs: Mapping[str, str]) -> None:
    """Refuse more, or longer, pairs than OpenAI's API takes."""
    if len(pairs) > METADATA_PAIRS:
        raise InvalidArgument(f"metadata of {len(pairs)} pairs; accepted: {METADATA_PAIRS} at most", param="metadata")
    for key, value in pairs.items():
        if len(key) > METADATA_KEY or len(value) > METADATA_VALUE:
            raise InvalidArgument(
                f"metadata {key[:METADATA_KEY]!r}: a key of {len(key)} and a value of {len(value)} characters; "
                f"accepted: {METADATA_KEY} and {METADATA_VALUE} at most",
                param="metadata",
            )


def size(count: int, most: int, what: str, setting: str = "") -> None:
    """Refuse more than `most` bytes."""
    if count > most:
        by = f" ({setting})" if setting else ""
        raise TooLarge(f"{what} of {count} bytes; accepted: {most} at most{by}", param=what.split()[0])
