from protos.gen import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PlanRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PlanReply(_message.Message):
    __slots__ = ("nodes", "replicas")
    NODES_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[PlanNode]
    replicas: _containers.RepeatedCompositeFieldContainer[PlanReplica]
    def __init__(self, nodes: _Optional[_Iterable[_Union[PlanNode, _Mapping]]] = ..., replicas: _Optional[_Iterable[_Union[PlanReplica, _Mapping]]] = ...) -> None: ...

class PlanNode(_message.Message):
    __slots__ = ("name", "cores", "memory_bytes", "aside_bytes", "free_bytes", "labels", "unfit")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ASIDE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    UNFIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    cores: int
    memory_bytes: int
    aside_bytes: int
    free_bytes: int
    labels: _containers.ScalarMap[str, str]
    unfit: str
    def __init__(self, name: _Optional[str] = ..., cores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., aside_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., unfit: _Optional[str] = ...) -> None: ...

class PlanReplica(_message.Message):
    __slots__ = ("id", "node", "state", "reason", "because", "bytes", "kv_bytes", "threads")
    ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    id: str
    node: str
    state: str
    reason: str
    because: str
    bytes: int
    kv_bytes: int
    threads: int
    def __init__(self, id: _Optional[str] = ..., node: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., because: _Optional[str] = ..., bytes: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., threads: _Optional[int] = ...) -> None: ...
