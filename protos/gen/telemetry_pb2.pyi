from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ScrapeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScrapeReply(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: bytes
    def __init__(self, text: _Optional[bytes] = ...) -> None: ...

class IdentifyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Identity(_message.Message):
    __slots__ = ("role", "replica", "node", "pid", "started_s", "version")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_S_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    role: str
    replica: str
    node: str
    pid: int
    started_s: float
    version: str
    def __init__(self, role: _Optional[str] = ..., replica: _Optional[str] = ..., node: _Optional[str] = ..., pid: _Optional[int] = ..., started_s: _Optional[float] = ..., version: _Optional[str] = ...) -> None: ...
