"""Results that are used again: for the same arguments, and where a tool allows it for arguments of like meaning."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.tool_runtime.arguments import canonical

Vector = NDArray[np.float32]
_DIGITS = re.compile(r"\d+")


class Key(NamedTuple):
    """What a result belongs to. Tenants share none."""

    tenant: str
    tool: str
    digest: bytes
    """SHA-256 of the arguments' canonical JSON."""


class Meaning(NamedTuple):
    """Arguments as far as they can mean the same without being the same."""

    frame: str
    """All but the words: names, numbers, booleans, and the digits within texts. These have to be equal."""
    text: str
    """The words, to be embedded; empty where there are none."""


class _Entry(NamedTuple):
    text: str
    until_s: float
    frame: str
    vector: Vector | None


def key_of(tenant: str, tool: str, arguments: dict[str, Any]) -> Key:
    """The exact key of a call."""
    return Key(tenant, tool, hashlib.sha256(canonical(arguments).encode()).digest())


def meaning_of(arguments: dict[str, Any]) -> Meaning:
    """Split arguments into what must be equal and what may be alike.

    An embedding hardly tells 2023 from 2024, so numbers are compared as they are, within texts too.
    """
    words: list[str] = []

    def framed(value: Any) -> Any:
        if isinstance(value, str):
            words.append(value)
            return ["text", _DIGITS.findall(value)]
        if isinstance(value, list):
            return [framed(each) for each in value]
        if isinstance(value, dict):
            return {name: framed(value[name]) for name in sorted(value)}
        return value

    frame = canonical({"arguments": framed(arguments)})
    return Meaning(frame, "\n".join(words))


class ResultCache:
    """At most `entries` results, each for `ttl_s`; the one used longest ago goes first."""

    def __init__(self, entries: int, ttl_s: float, cosine: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = entries
        self._ttl_s = ttl_s
        self._cosine = cosine
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def exact(self, key: Key) -> str | None:
        """The result for these very arguments."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until_s <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry.text

    def alike(self, key: Key, frame: str, vector: Vector) -> str | None:
        """The result for the arguments that mean most nearly the same: `frame` equal, cosine at least the threshold.

        `vector`: of length 1.
        """
        now_s = self._clock()
        near = [
            (float(entry.vector @ vector), other)
            for other, entry in self._entries.items()
            if (other.tenant, other.tool) == (key.tenant, key.tool)
            and entry.vector is not None
            and entry.vector.shape == vector.shape
            and entry.frame == frame
            and entry.until_s > now_s
        ]
        cosine, nearest = max(near, key=lambda each: each[0], default=(0.0, key))
        return self.exact(nearest) if cosine >= self._cosine else None

    def put(self, key: Key, text: str, frame: str = "", vector: Vector | None = None) -> None:
        """Keep a result; with `vector`, also for arguments of like meaning."""
        if not self._most:
            return
        self._entries[key] = _Entry(text, self._clock() + self._ttl_s, frame, vector)
        self._entries.move_to_end(key)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
