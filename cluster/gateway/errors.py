"""The base's errors where OpenAI's clients know a finer code, and every error in OpenAI's shape.

InvalidArgument
├── UnsupportedParameter   unsupported_parameter: OpenAI has it, Russet does not (yet)
├── UnknownParameter       unknown_parameter
└── ContextTooLong         context_length_exceeded
NotFound
└── ModelNotFound          model_not_found
QueueFull
└── RateLimited            rate_limit_exceeded: a limit of the caller's key
    └── InsufficientQuota  insufficient_quota
"""

import json
import math
from collections.abc import Sequence

from actors.base.errors import InvalidArgument, NotFound, QueueFull, RussetError, mapping_of


class UnsupportedParameter(InvalidArgument):
    """A parameter, or a value of one, that OpenAI has and Russet does not."""

    code = "unsupported_parameter"


class UnknownParameter(InvalidArgument):
    """A parameter that nobody has."""

    code = "unknown_parameter"


class ContextTooLong(InvalidArgument):
    """Prompt and answer together exceed the model's context window."""

    code = "context_length_exceeded"


class ModelNotFound(NotFound):
    """No replica and no embedder has this model."""

    code = "model_not_found"


class RateLimited(QueueFull):
    """The caller's key met a limit of its own."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float, headers: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.headers = headers
        """OpenAI's x-ratelimit-*."""


class InsufficientQuota(RateLimited):
    """Its tokens of the day are used up."""

    code = type = "insufficient_quota"


def body_of(error: BaseException) -> bytes:
    """`error` as OpenAI's JSON. What is not ours says nothing of its inside; the log does."""
    mapping = mapping_of(error)
    ours = isinstance(error, RussetError)
    shape = {
        "message": error.message if ours else "internal error; the gateway's log has the details",
        "type": getattr(error, "type", mapping.type),
        "param": error.param if ours else None,
        "code": getattr(error, "code", mapping.code),
    }
    return json.dumps({"error": shape}, separators=(",", ":")).encode()


def headers_of(error: BaseException) -> list[tuple[bytes, bytes]]:
    """Headers that go with `error`: Retry-After in seconds on 429 and 503, a key's limits, the challenge on 401."""
    status = mapping_of(error).http
    if status in (429, 503):
        after = getattr(error, "retry_after_s", None) or 1.0
        return [(b"retry-after", str(max(1, math.ceil(after))).encode()), *getattr(error, "headers", ())]
    return [(b"www-authenticate", b"Bearer")] if status == 401 else []
