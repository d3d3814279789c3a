from protos.gen import inference_pb2 as _inference_pb2
from protos.gen import scheduler_pb2 as _scheduler_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RouteRequest(_message.Message):
    __slots__ = ("request_id", "model", "tenant", "session_id", "prompt_tokens", "prefix_hashes", "max_tokens", "priority", "exclude", "isa_class", "embedding", "session_replica")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASHES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    ISA_CLASS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    SESSION_REPLICA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    tenant: str
    session_id: str
    prompt_tokens: int
    prefix_hashes: _containers.RepeatedScalarFieldContainer[int]
    max_tokens: int
    priority: _inference_pb2.Priority
    exclude: _containers.RepeatedScalarFieldContainer[str]
    isa_class: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    session_replica: str
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., prefix_hashes: _Optional[_Iterable[int]] = ..., max_tokens: _Optional[int] = ..., priority: _Optional[_Union[_inference_pb2.Priority, str]] = ..., exclude: _Optional[_Iterable[str]] = ..., isa_class: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., session_replica: _Optional[str] = ...) -> None: ...

class RouteReply(_message.Message):
    __slots__ = ("model", "candidates", "confidence", "explanation")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    model: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    confidence: float
    explanation: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., confidence: _Optional[float] = ..., explanation: _Optional[_Iterable[str]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("replica_id", "addresses", "score", "terms", "epoch", "isa_class")
    class TermsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ISA_CLASS_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    score: float
    terms: _containers.ScalarMap[str, float]
    epoch: int
    isa_class: str
    def __init__(self, replica_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., score: _Optional[float] = ..., terms: _Optional[_Mapping[str, float]] = ..., epoch: _Optional[int] = ..., isa_class: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("replica_id", "addresses", "node", "model", "context_length", "isa_class", "load", "sequence", "incarnation", "leaving", "worker_addresses")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ISA_CLASS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    WORKER_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    node: str
    model: str
    context_length: int
    isa_class: str
    load: _scheduler_pb2.ReplicaLoad
    sequence: int
    incarnation: str
    leaving: bool
    worker_addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, replica_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., node: _Optional[str] = ..., model: _Optional[str] = ..., context_length: _Optional[int] = ..., isa_class: _Optional[str] = ..., load: _Optional[_Union[_scheduler_pb2.ReplicaLoad, _Mapping]] = ..., sequence: _Optional[int] = ..., incarnation: _Optional[str] = ..., leaving: _Optional[bool] = ..., worker_addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: bool
    def __init__(self, known: _Optional[bool] = ...) -> None: ...

class ListReplicasRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Replica(_message.Message):
    __slots__ = ("state", "age_s", "available", "since_s")
    STATE_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    state: HeartbeatRequest
    age_s: float
    available: bool
    since_s: int
    def __init__(self, state: _Optional[_Union[HeartbeatRequest, _Mapping]] = ..., age_s: _Optional[float] = ..., available: _Optional[bool] = ..., since_s: _Optional[int] = ...) -> None: ...

class ListReplicasReply(_message.Message):
    __slots__ = ("replicas", "default_model")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    default_model: str
    def __init__(self, replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., default_model: _Optional[str] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("request_id", "replica_id", "session_id", "tenant", "prefix_hashes", "succeeded", "ttft_ms", "tpot_ms")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASHES_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TPOT_MS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    replica_id: str
    session_id: str
    tenant: str
    prefix_hashes: _containers.RepeatedScalarFieldContainer[int]
    succeeded: bool
    ttft_ms: float
    tpot_ms: float
    def __init__(self, request_id: _Optional[str] = ..., replica_id: _Optional[str] = ..., session_id: _Optional[str] = ..., tenant: _Optional[str] = ..., prefix_hashes: _Optional[_Iterable[int]] = ..., succeeded: _Optional[bool] = ..., ttft_ms: _Optional[float] = ..., tpot_ms: _Optional[float] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
