from protos.gen import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Trajectory(_message.Message):
    __slots__ = ("id", "tenant", "session_id", "model", "replica_id", "time_ms", "query_embedding", "prompt_ids", "answer_ids", "finish", "follows", "patterns_retrieved", "pattern_used", "total_ms", "rating", "outcome", "correction", "label", "quality", "question", "answer", "procedures", "passages", "passages_used", "stores")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    QUERY_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_IDS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_RETRIEVED_FIELD_NUMBER: _ClassVar[int]
    PATTERN_USED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    PROCEDURES_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_USED_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    session_id: str
    model: str
    replica_id: str
    time_ms: int
    query_embedding: _containers.RepeatedScalarFieldContainer[float]
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    answer_ids: _containers.RepeatedScalarFieldContainer[int]
    finish: str
    follows: str
    patterns_retrieved: _containers.RepeatedScalarFieldContainer[str]
    pattern_used: str
    total_ms: float
    rating: float
    outcome: str
    correction: str
    label: str
    quality: float
    question: str
    answer: str
    procedures: _containers.RepeatedScalarFieldContainer[str]
    passages: _containers.RepeatedScalarFieldContainer[str]
    passages_used: _containers.RepeatedScalarFieldContainer[str]
    stores: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., replica_id: _Optional[str] = ..., time_ms: _Optional[int] = ..., query_embedding: _Optional[_Iterable[float]] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., answer_ids: _Optional[_Iterable[int]] = ..., finish: _Optional[str] = ..., follows: _Optional[str] = ..., patterns_retrieved: _Optional[_Iterable[str]] = ..., pattern_used: _Optional[str] = ..., total_ms: _Optional[float] = ..., rating: _Optional[float] = ..., outcome: _Optional[str] = ..., correction: _Optional[str] = ..., label: _Optional[str] = ..., quality: _Optional[float] = ..., question: _Optional[str] = ..., answer: _Optional[str] = ..., procedures: _Optional[_Iterable[str]] = ..., passages: _Optional[_Iterable[str]] = ..., passages_used: _Optional[_Iterable[str]] = ..., stores: _Optional[_Iterable[str]] = ...) -> None: ...

class RecordRequest(_message.Message):
    __slots__ = ("trajectories",)
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    trajectories: _containers.RepeatedCompositeFieldContainer[Trajectory]
    def __init__(self, trajectories: _Optional[_Iterable[_Union[Trajectory, _Mapping]]] = ...) -> None: ...

class RecordReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("recorded", "dropped", "held", "capacity", "feedback", "edges_updated", "patterns")
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    EDGES_UPDATED_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    recorded: int
    dropped: int
    held: int
    capacity: int
    feedback: int
    edges_updated: int
    patterns: int
    def __init__(self, recorded: _Optional[int] = ..., dropped: _Optional[int] = ..., held: _Optional[int] = ..., capacity: _Optional[int] = ..., feedback: _Optional[int] = ..., edges_updated: _Optional[int] = ..., patterns: _Optional[int] = ...) -> None: ...

class ListTrajectoriesRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListTrajectoriesReply(_message.Message):
    __slots__ = ("trajectories",)
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    trajectories: _containers.RepeatedCompositeFieldContainer[Trajectory]
    def __init__(self, trajectories: _Optional[_Iterable[_Union[Trajectory, _Mapping]]] = ...) -> None: ...
