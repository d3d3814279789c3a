"""One tree of errors, mapped once to gRPC status and HTTP.

RussetError
├── InvalidArgument     400  the request can never succeed as it is
├── Unauthenticated     401  no key, or a wrong one
├── PermissionDenied    403  the key may not do this
├── NotFound            404  no such model, session, path
├── Conflict            409  something else holds what is wanted
│   └── StaleEpoch      409  the caller speaks to a worker that has since begun anew
├── TooLarge            413  past a size limit
├── QueueFull           429  come back after retry_after_s
├── Internal            500  a defect of ours
├── Unavailable         503  not now; come back after retry_after_s
│   └── Unreachable     503  nobody answered, or the answer broke off: whether the call ran is not known
└── DeadlineExceeded    504  the time the caller gave is over

A message says what happened, the offending value, and what would be accepted. Cancellation is no error: it stays
asyncio.CancelledError.
"""

import json
from typing import NamedTuple

import grpc

METADATA_KEY = "russet-error-bin"
"""Trailing metadata that carries an error as JSON, so that it arrives as the class it left as."""
CARRIED_BYTES = 1000
"""More of a message is cut: gRPC peers refuse metadata above 8 KiB, and it travels twice, partly percent-encoded."""


class RussetError(Exception):
    """Base of all. `param` names the offending parameter, `retry_after_s` says when to come back (seconds)."""

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidArgument(RussetError):
    """The request can never succeed as it is."""


class Unauthenticated(RussetError):
    """No key, or a wrong one."""


class PermissionDenied(RussetError):
    """The key may not do this."""


class NotFound(RussetError):
    """No such thing."""


class Conflict(RussetError):
    """Something else holds what is wanted."""


class StaleEpoch(Conflict):
    """The caller speaks to a worker that has since begun anew."""


class TooLarge(RussetError):
    """Past a size limit."""


class QueueFull(RussetError):
    """No room in the queue now."""


class Internal(RussetError):
    """A defect of ours."""


class Unavailable(RussetError):
    """Not now."""


class Unreachable(Unavailable):
    """Nobody answered, or the answer broke off. Raised by channels; to the next caller it is Unavailable."""


class DeadlineExceeded(RussetError):
    """The time the caller gave is over."""


class Mapping(NamedTuple):
    """How an error looks outside: gRPC status, HTTP status, and OpenAI's type and code."""

    grpc: grpc.StatusCode
    http: int
    type: str
    code: str


MAPPINGS: dict[type[RussetError], Mapping] = {
    InvalidArgument: Mapping(grpc.StatusCode.INVALID_ARGUMENT, 400, "invalid_request_error", "invalid_value"),
    Unauthenticated: Mapping(grpc.StatusCode.UNAUTHENTICATED, 401, "authentication_error", "invalid_api_key"),
    PermissionDenied: Mapping(grpc.StatusCode.PERMISSION_DENIED, 403, "permission_error", "permission_denied"),
    NotFound: Mapping(grpc.StatusCode.NOT_FOUND, 404, "invalid_request_error", "not_found"),
    Conflict: Mapping(grpc.StatusCode.ABORTED, 409, "conflict_error", "conflict"),
    StaleEpoch: Mapping(grpc.StatusCode.FAILED_PRECONDITION, 409, "conflict_error", "stale_epoch"),
    TooLarge: Mapping(grpc.StatusCode.OUT_OF_RANGE, 413, "invalid_request_error", "too_large"),
    QueueFull: Mapping(grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "rate_limit_error", "queue_full"),
    Unavailable: Mapping(grpc.StatusCode.UNAVAILABLE, 503, "server_error", "unavailable"),
    DeadlineExceeded: Mapping(grpc.StatusCode.DEADLINE_EXCEEDED, 504, "server_error", "deadline_exceeded"),
    Internal: Mapping(grpc.StatusCode.INTERNAL, 500, "server_error", "internal_error"),
}
_BY_NAME = {kind.__name__: kind for kind in MAPPINGS}
_BY_STATUS = {mapping.grpc: kind for kind, mapping in MAPPINGS.items()}
# What gRPC itself says with these: connection lost; server gone before it answered; message over the size limit.
_WITHOUT_HANDLER: dict[grpc.StatusCode, type[RussetError]] = {
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.CANCELLED: Unreachable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
}


def mapping_of(error: BaseException) -> Mapping:
    """How `error` looks outside; anything that is not ours is Internal."""
    for kind in type(error).__mro__:
        if kind in MAPPINGS:
            return MAPPINGS[kind]
    return MAPPINGS[Internal]


def encode(error: RussetError) -> bytes:
    """`error` as it travels in METADATA_KEY."""
    kind = next(kind for kind in (*type(error).__mro__, Internal) if kind in MAPPINGS)
    fields = {
        "class": kind.__name__,
        "message": shortened(error.message),
        "param": shortened(error.param) if error.param is not None else None,
        "retry_after_s": error.retry_after_s,
    }
    return json.dumps(fields, ensure_ascii=False).encode()


def shortened(text: str) -> str:
    """`text` as far as it fits into CARRIED_BYTES of UTF-8."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= CARRIED_BYTES else encoded[: CARRIED_BYTES - 3].decode(errors="ignore") + "..."


def decode(status: grpc.StatusCode, details: str, carried: bytes | None) -> RussetError:
    """The error that a call ended with: as it left where it was ours, else the class of its status."""
    if carried is not None:
        try:
            fields = json.loads(carried)
            kind = _BY_NAME[fields["class"]]
            return kind(str(fields["message"]), param=fields["param"], retry_after_s=fields["retry_after_s"])
        except (ValueError, KeyError, TypeError):
            return Internal(f"{details} (its details could not be read)")
    return _WITHOUT_HANDLER.get(status, _BY_STATUS.get(status, Internal))(details or status.name)
