from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Limits(_message.Message):
    __slots__ = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent")
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    requests_per_minute: int
    tokens_per_minute: int
    tokens_per_day: int
    concurrent: int
    def __init__(self, requests_per_minute: _Optional[int] = ..., tokens_per_minute: _Optional[int] = ..., tokens_per_day: _Optional[int] = ..., concurrent: _Optional[int] = ...) -> None: ...

class TakeRequest(_message.Message):
    __slots__ = ("tenant", "request_id", "limits")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    request_id: str
    limits: Limits
    def __init__(self, tenant: _Optional[str] = ..., request_id: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class TakeReply(_message.Message):
    __slots__ = ("refused", "retry_after_s", "requests", "tokens")
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    refused: str
    retry_after_s: float
    requests: Room
    tokens: Room
    def __init__(self, refused: _Optional[str] = ..., retry_after_s: _Optional[float] = ..., requests: _Optional[_Union[Room, _Mapping]] = ..., tokens: _Optional[_Union[Room, _Mapping]] = ...) -> None: ...

class Room(_message.Message):
    __slots__ = ("limit", "remaining", "reset_s")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RESET_S_FIELD_NUMBER: _ClassVar[int]
    limit: int
    remaining: int
    reset_s: float
    def __init__(self, limit: _Optional[int] = ..., remaining: _Optional[int] = ..., reset_s: _Optional[float] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("tenant", "request_id", "limits", "tokens")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    request_id: str
    limits: Limits
    tokens: int
    def __init__(self, tenant: _Optional[str] = ..., request_id: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., tokens: _Optional[int] = ...) -> None: ...

class SettleReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
