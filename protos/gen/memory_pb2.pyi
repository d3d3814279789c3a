from protos.gen import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmbedRequest(_message.Message):
    __slots__ = ("texts", "model", "dimensions")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    model: str
    dimensions: int
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., model: _Optional[str] = ..., dimensions: _Optional[int] = ...) -> None: ...

class EmbedReply(_message.Message):
    __slots__ = ("model", "values", "width", "prompt_tokens")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    model: str
    values: _containers.RepeatedScalarFieldContainer[float]
    width: int
    prompt_tokens: int
    def __init__(self, model: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ..., width: _Optional[int] = ..., prompt_tokens: _Optional[int] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("schema", "coherence", "diversity", "temporal", "uniqueness", "total")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    COHERENCE_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    TEMPORAL_FIELD_NUMBER: _ClassVar[int]
    UNIQUENESS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    schema: float
    coherence: float
    diversity: float
    temporal: float
    uniqueness: float
    total: float
    def __init__(self, schema: _Optional[float] = ..., coherence: _Optional[float] = ..., diversity: _Optional[float] = ..., temporal: _Optional[float] = ..., uniqueness: _Optional[float] = ..., total: _Optional[float] = ...) -> None: ...

class Demand(_message.Message):
    __slots__ = ("text", "grammar")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    text: str
    grammar: _inference_pb2.Grammar
    def __init__(self, text: _Optional[str] = ..., grammar: _Optional[_Union[_inference_pb2.Grammar, _Mapping]] = ...) -> None: ...

class Answered(_message.Message):
    __slots__ = ("id", "tenant", "time_ms", "query_embedding", "text", "demands")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    QUERY_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DEMANDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    time_ms: int
    query_embedding: _containers.RepeatedScalarFieldContainer[float]
    text: str
    demands: _containers.RepeatedCompositeFieldContainer[Demand]
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., time_ms: _Optional[int] = ..., query_embedding: _Optional[_Iterable[float]] = ..., text: _Optional[str] = ..., demands: _Optional[_Iterable[_Union[Demand, _Mapping]]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[Answered]
    def __init__(self, answers: _Optional[_Iterable[_Union[Answered, _Mapping]]] = ...) -> None: ...

class ScoreReply(_message.Message):
    __slots__ = ("qualities",)
    QUALITIES_FIELD_NUMBER: _ClassVar[int]
    qualities: _containers.RepeatedCompositeFieldContainer[Quality]
    def __init__(self, qualities: _Optional[_Iterable[_Union[Quality, _Mapping]]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("role", "content", "name", "tool_calls", "tool_call_id")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    name: str
    tool_calls: _containers.RepeatedCompositeFieldContainer[_inference_pb2.ToolCall]
    tool_call_id: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., name: _Optional[str] = ..., tool_calls: _Optional[_Iterable[_Union[_inference_pb2.ToolCall, _Mapping]]] = ..., tool_call_id: _Optional[str] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("session_id", "tenant", "turns", "embedding", "model", "replica_id", "created_ms", "last_active_ms", "metadata", "kv", "token_ids", "turn_count", "response")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTIVE_MS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    KV_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TURN_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    tenant: str
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    model: str
    replica_id: str
    created_ms: int
    last_active_ms: int
    metadata: _containers.ScalarMap[str, str]
    kv: SessionKv
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    turn_count: int
    response: str
    def __init__(self, session_id: _Optional[str] = ..., tenant: _Optional[str] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., embedding: _Optional[_Iterable[float]] = ..., model: _Optional[str] = ..., replica_id: _Optional[str] = ..., created_ms: _Optional[int] = ..., last_active_ms: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., kv: _Optional[_Union[SessionKv, _Mapping]] = ..., token_ids: _Optional[_Iterable[int]] = ..., turn_count: _Optional[int] = ..., response: _Optional[str] = ...) -> None: ...

class SessionKv(_message.Message):
    __slots__ = ("tokens", "format", "tier")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    format: str
    tier: str
    def __init__(self, tokens: _Optional[int] = ..., format: _Optional[str] = ..., tier: _Optional[str] = ...) -> None: ...

class PutSessionRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class PutSessionReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("tenant", "session_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    session_id: str
    def __init__(self, tenant: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class GetSessionReply(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("tenant", "limit")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    limit: int
    def __init__(self, tenant: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListSessionsReply(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ...) -> None: ...

class SearchSessionsRequest(_message.Message):
    __slots__ = ("tenant", "embedding", "limit")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    limit: int
    def __init__(self, tenant: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., limit: _Optional[int] = ...) -> None: ...

class ScoredSession(_message.Message):
    __slots__ = ("session", "similarity")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    session: Session
    similarity: float
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., similarity: _Optional[float] = ...) -> None: ...

class SearchSessionsReply(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[ScoredSession]
    def __init__(self, sessions: _Optional[_Iterable[_Union[ScoredSession, _Mapping]]] = ...) -> None: ...

class DeleteSessionRequest(_message.Message):
    __slots__ = ("tenant", "session_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    session_id: str
    def __init__(self, tenant: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class DeleteSessionReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class WitnessEntry(_message.Message):
    __slots__ = ("id", "tenant", "session_id", "time_ms", "model", "model_revision", "replica_id", "route", "usage", "latency", "finish", "error", "quality", "query_embedding", "response_embedding", "query_text", "response_text", "scores", "options", "adapter", "adapter_version", "kv_format", "documents", "models", "action", "subject")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    QUERY_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    QUERY_TEXT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    KV_FORMAT_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    session_id: str
    time_ms: int
    model: str
    model_revision: str
    replica_id: str
    route: _inference_pb2.Route
    usage: _inference_pb2.Usage
    latency: Latency
    finish: str
    error: str
    quality: float
    query_embedding: _containers.RepeatedScalarFieldContainer[float]
    response_embedding: _containers.RepeatedScalarFieldContainer[float]
    query_text: str
    response_text: str
    scores: Quality
    options: _containers.RepeatedCompositeFieldContainer[RouteOption]
    adapter: str
    adapter_version: int
    kv_format: str
    documents: _containers.RepeatedCompositeFieldContainer[WitnessDocument]
    models: _containers.RepeatedCompositeFieldContainer[RouteOption]
    action: str
    subject: str
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., time_ms: _Optional[int] = ..., model: _Optional[str] = ..., model_revision: _Optional[str] = ..., replica_id: _Optional[str] = ..., route: _Optional[_Union[_inference_pb2.Route, _Mapping]] = ..., usage: _Optional[_Union[_inference_pb2.Usage, _Mapping]] = ..., latency: _Optional[_Union[Latency, _Mapping]] = ..., finish: _Optional[str] = ..., error: _Optional[str] = ..., quality: _Optional[float] = ..., query_embedding: _Optional[_Iterable[float]] = ..., response_embedding: _Optional[_Iterable[float]] = ..., query_text: _Optional[str] = ..., response_text: _Optional[str] = ..., scores: _Optional[_Union[Quality, _Mapping]] = ..., options: _Optional[_Iterable[_Union[RouteOption, _Mapping]]] = ..., adapter: _Optional[str] = ..., adapter_version: _Optional[int] = ..., kv_format: _Optional[str] = ..., documents: _Optional[_Iterable[_Union[WitnessDocument, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[RouteOption, _Mapping]]] = ..., action: _Optional[str] = ..., subject: _Optional[str] = ...) -> None: ...

class RouteOption(_message.Message):
    __slots__ = ("model", "replica", "score", "probability")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    replica: str
    score: float
    probability: float
    def __init__(self, model: _Optional[str] = ..., replica: _Optional[str] = ..., score: _Optional[float] = ..., probability: _Optional[float] = ...) -> None: ...

class WitnessDocument(_message.Message):
    __slots__ = ("id", "store", "chunk", "score")
    ID_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    id: str
    store: str
    chunk: int
    score: float
    def __init__(self, id: _Optional[str] = ..., store: _Optional[str] = ..., chunk: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class Latency(_message.Message):
    __slots__ = ("embedding_ms", "retrieval_ms", "routing_ms", "queue_ms", "prefill_ms", "decode_ms", "total_ms", "ttft_ms", "tpot_ms")
    EMBEDDING_MS_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_MS_FIELD_NUMBER: _ClassVar[int]
    ROUTING_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TPOT_MS_FIELD_NUMBER: _ClassVar[int]
    embedding_ms: float
    retrieval_ms: float
    routing_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    total_ms: float
    ttft_ms: float
    tpot_ms: float
    def __init__(self, embedding_ms: _Optional[float] = ..., retrieval_ms: _Optional[float] = ..., routing_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., prefill_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., ttft_ms: _Optional[float] = ..., tpot_ms: _Optional[float] = ...) -> None: ...

class AppendWitnessRequest(_message.Message):
    __slots__ = ("entries", "wait")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[WitnessEntry]
    wait: bool
    def __init__(self, entries: _Optional[_Iterable[_Union[WitnessEntry, _Mapping]]] = ..., wait: _Optional[bool] = ...) -> None: ...

class AppendWitnessReply(_message.Message):
    __slots__ = ("dropped",)
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    dropped: int
    def __init__(self, dropped: _Optional[int] = ...) -> None: ...

class QueryWitnessRequest(_message.Message):
    __slots__ = ("tenant", "from_ms", "to_ms", "quality_below", "errors_only", "slower_than_ms", "limit", "id", "all_tenants", "model", "session_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    TO_MS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_BELOW_FIELD_NUMBER: _ClassVar[int]
    ERRORS_ONLY_FIELD_NUMBER: _ClassVar[int]
    SLOWER_THAN_MS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ALL_TENANTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    from_ms: int
    to_ms: int
    quality_below: float
    errors_only: bool
    slower_than_ms: float
    limit: int
    id: str
    all_tenants: bool
    model: str
    session_id: str
    def __init__(self, tenant: _Optional[str] = ..., from_ms: _Optional[int] = ..., to_ms: _Optional[int] = ..., quality_below: _Optional[float] = ..., errors_only: _Optional[bool] = ..., slower_than_ms: _Optional[float] = ..., limit: _Optional[int] = ..., id: _Optional[str] = ..., all_tenants: _Optional[bool] = ..., model: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class WitnessRecord(_message.Message):
    __slots__ = ("entry", "sequence", "hash", "archived")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    entry: WitnessEntry
    sequence: int
    hash: bytes
    archived: bool
    def __init__(self, entry: _Optional[_Union[WitnessEntry, _Mapping]] = ..., sequence: _Optional[int] = ..., hash: _Optional[bytes] = ..., archived: _Optional[bool] = ...) -> None: ...

class QueryWitnessReply(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[WitnessRecord]
    def __init__(self, records: _Optional[_Iterable[_Union[WitnessRecord, _Mapping]]] = ...) -> None: ...

class SimilarWitnessRequest(_message.Message):
    __slots__ = ("tenant", "all_tenants", "text", "id", "from_ms", "to_ms", "limit")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ALL_TENANTS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    TO_MS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    all_tenants: bool
    text: str
    id: str
    from_ms: int
    to_ms: int
    limit: int
    def __init__(self, tenant: _Optional[str] = ..., all_tenants: _Optional[bool] = ..., text: _Optional[str] = ..., id: _Optional[str] = ..., from_ms: _Optional[int] = ..., to_ms: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class SimilarWitness(_message.Message):
    __slots__ = ("record", "similarity", "matched")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    record: WitnessRecord
    similarity: float
    matched: str
    def __init__(self, record: _Optional[_Union[WitnessRecord, _Mapping]] = ..., similarity: _Optional[float] = ..., matched: _Optional[str] = ...) -> None: ...

class SimilarWitnessReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: _containers.RepeatedCompositeFieldContainer[SimilarWitness]
    def __init__(self, found: _Optional[_Iterable[_Union[SimilarWitness, _Mapping]]] = ...) -> None: ...

class SlowWitnessRequest(_message.Message):
    __slots__ = ("tenant", "all_tenants", "from_ms", "to_ms", "factor", "limit")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ALL_TENANTS_FIELD_NUMBER: _ClassVar[int]
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    TO_MS_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    all_tenants: bool
    from_ms: int
    to_ms: int
    factor: float
    limit: int
    def __init__(self, tenant: _Optional[str] = ..., all_tenants: _Optional[bool] = ..., from_ms: _Optional[int] = ..., to_ms: _Optional[int] = ..., factor: _Optional[float] = ..., limit: _Optional[int] = ...) -> None: ...

class SlowEntry(_message.Message):
    __slots__ = ("record", "median_ms", "p99_ms", "ratio")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    record: WitnessRecord
    median_ms: float
    p99_ms: float
    ratio: float
    def __init__(self, record: _Optional[_Union[WitnessRecord, _Mapping]] = ..., median_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., ratio: _Optional[float] = ...) -> None: ...

class SlowWitnessReply(_message.Message):
    __slots__ = ("spikes", "entries")
    SPIKES_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    spikes: _containers.RepeatedCompositeFieldContainer[SlowEntry]
    entries: int
    def __init__(self, spikes: _Optional[_Iterable[_Union[SlowEntry, _Mapping]]] = ..., entries: _Optional[int] = ...) -> None: ...

class WitnessStatsRequest(_message.Message):
    __slots__ = ("tenant", "all_tenants", "from_ms", "to_ms", "by")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ALL_TENANTS_FIELD_NUMBER: _ClassVar[int]
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    TO_MS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    all_tenants: bool
    from_ms: int
    to_ms: int
    by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., all_tenants: _Optional[bool] = ..., from_ms: _Optional[int] = ..., to_ms: _Optional[int] = ..., by: _Optional[_Iterable[str]] = ...) -> None: ...

class Percentiles(_message.Message):
    __slots__ = ("part", "p50", "p90", "p95", "p99")
    PART_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P90_FIELD_NUMBER: _ClassVar[int]
    P95_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    part: str
    p50: float
    p90: float
    p95: float
    p99: float
    def __init__(self, part: _Optional[str] = ..., p50: _Optional[float] = ..., p90: _Optional[float] = ..., p95: _Optional[float] = ..., p99: _Optional[float] = ...) -> None: ...

class WitnessGroup(_message.Message):
    __slots__ = ("key", "entries", "errors", "prompt_tokens", "completion_tokens", "scored", "mean_quality", "latency")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    MEAN_QUALITY_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    key: _containers.RepeatedScalarFieldContainer[str]
    entries: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    scored: int
    mean_quality: float
    latency: _containers.RepeatedCompositeFieldContainer[Percentiles]
    def __init__(self, key: _Optional[_Iterable[str]] = ..., entries: _Optional[int] = ..., errors: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., scored: _Optional[int] = ..., mean_quality: _Optional[float] = ..., latency: _Optional[_Iterable[_Union[Percentiles, _Mapping]]] = ...) -> None: ...

class WitnessStatsReply(_message.Message):
    __slots__ = ("groups", "first_ms", "last_ms")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    FIRST_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_MS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[WitnessGroup]
    first_ms: int
    last_ms: int
    def __init__(self, groups: _Optional[_Iterable[_Union[WitnessGroup, _Mapping]]] = ..., first_ms: _Optional[int] = ..., last_ms: _Optional[int] = ...) -> None: ...

class VerifyWitnessRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyWitnessReply(_message.Message):
    __slots__ = ("entries", "sound", "broken_at", "problem", "head", "broken_id", "first", "archived", "signed_heads")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SOUND_FIELD_NUMBER: _ClassVar[int]
    BROKEN_AT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    BROKEN_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    SIGNED_HEADS_FIELD_NUMBER: _ClassVar[int]
    entries: int
    sound: bool
    broken_at: int
    problem: str
    head: bytes
    broken_id: str
    first: int
    archived: int
    signed_heads: int
    def __init__(self, entries: _Optional[int] = ..., sound: _Optional[bool] = ..., broken_at: _Optional[int] = ..., problem: _Optional[str] = ..., head: _Optional[bytes] = ..., broken_id: _Optional[str] = ..., first: _Optional[int] = ..., archived: _Optional[int] = ..., signed_heads: _Optional[int] = ...) -> None: ...

class ArchiveHead(_message.Message):
    __slots__ = ("first", "entries", "from_ms", "to_ms", "previous", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    TO_MS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    entries: int
    from_ms: int
    to_ms: int
    previous: bytes
    last: bytes
    def __init__(self, first: _Optional[int] = ..., entries: _Optional[int] = ..., from_ms: _Optional[int] = ..., to_ms: _Optional[int] = ..., previous: _Optional[bytes] = ..., last: _Optional[bytes] = ...) -> None: ...

class ArchivedEntry(_message.Message):
    __slots__ = ("blob", "vectors")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    blob: bytes
    vectors: str
    def __init__(self, blob: _Optional[bytes] = ..., vectors: _Optional[str] = ...) -> None: ...

class ArchivedEntries(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[ArchivedEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[ArchivedEntry, _Mapping]]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("id", "type", "embedding", "parameters", "confidence", "version", "created_ms", "last_accessed_ms", "source", "expires_ms", "gone")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_ACCESSED_MS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    id: str
    type: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    parameters: str
    confidence: float
    version: int
    created_ms: int
    last_accessed_ms: int
    source: str
    expires_ms: int
    gone: bool
    def __init__(self, id: _Optional[str] = ..., type: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., parameters: _Optional[str] = ..., confidence: _Optional[float] = ..., version: _Optional[int] = ..., created_ms: _Optional[int] = ..., last_accessed_ms: _Optional[int] = ..., source: _Optional[str] = ..., expires_ms: _Optional[int] = ..., gone: _Optional[bool] = ...) -> None: ...

class PutPolicyRequest(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class PutPolicyReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class DeletePolicyRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeletePolicyReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class SearchPoliciesRequest(_message.Message):
    __slots__ = ("type", "embedding", "limit", "id")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    type: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    limit: int
    id: str
    def __init__(self, type: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., limit: _Optional[int] = ..., id: _Optional[str] = ...) -> None: ...

class ScoredPolicy(_message.Message):
    __slots__ = ("policy", "similarity")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    similarity: float
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., similarity: _Optional[float] = ...) -> None: ...

class SearchPoliciesReply(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[ScoredPolicy]
    def __init__(self, policies: _Optional[_Iterable[_Union[ScoredPolicy, _Mapping]]] = ...) -> None: ...

class WatchPoliciesRequest(_message.Message):
    __slots__ = ("types",)
    TYPES_FIELD_NUMBER: _ClassVar[int]
    types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, types: _Optional[_Iterable[str]] = ...) -> None: ...

class Pattern(_message.Message):
    __slots__ = ("tenant", "router", "text", "label", "embedding", "features", "success", "uses")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    router: str
    text: str
    label: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    features: bytes
    success: float
    uses: int
    def __init__(self, tenant: _Optional[str] = ..., router: _Optional[str] = ..., text: _Optional[str] = ..., label: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., features: _Optional[bytes] = ..., success: _Optional[float] = ..., uses: _Optional[int] = ...) -> None: ...

class Patterns(_message.Message):
    __slots__ = ("patterns",)
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    patterns: _containers.RepeatedCompositeFieldContainer[Pattern]
    def __init__(self, patterns: _Optional[_Iterable[_Union[Pattern, _Mapping]]] = ...) -> None: ...

class PutPatternsRequest(_message.Message):
    __slots__ = ("patterns",)
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    patterns: _containers.RepeatedCompositeFieldContainer[Pattern]
    def __init__(self, patterns: _Optional[_Iterable[_Union[Pattern, _Mapping]]] = ...) -> None: ...

class PutPatternsReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeletePatternsRequest(_message.Message):
    __slots__ = ("patterns",)
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    patterns: _containers.RepeatedCompositeFieldContainer[Pattern]
    def __init__(self, patterns: _Optional[_Iterable[_Union[Pattern, _Mapping]]] = ...) -> None: ...

class DeletePatternsReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadPatternsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Procedure(_message.Message):
    __slots__ = ("id", "tenant", "question", "answer", "source", "rating", "uses", "created_ms", "last_used_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    question: str
    answer: str
    source: str
    rating: float
    uses: int
    created_ms: int
    last_used_ms: int
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., question: _Optional[str] = ..., answer: _Optional[str] = ..., source: _Optional[str] = ..., rating: _Optional[float] = ..., uses: _Optional[int] = ..., created_ms: _Optional[int] = ..., last_used_ms: _Optional[int] = ...) -> None: ...

class PutProcedureRequest(_message.Message):
    __slots__ = ("procedure", "embedding")
    PROCEDURE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    procedure: Procedure
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, procedure: _Optional[_Union[Procedure, _Mapping]] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class PutProcedureReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SearchProceduresRequest(_message.Message):
    __slots__ = ("tenant", "embedding", "limit", "score_threshold")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    limit: int
    score_threshold: float
    def __init__(self, tenant: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., limit: _Optional[int] = ..., score_threshold: _Optional[float] = ...) -> None: ...

class ScoredProcedure(_message.Message):
    __slots__ = ("procedure", "similarity")
    PROCEDURE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    procedure: Procedure
    similarity: float
    def __init__(self, procedure: _Optional[_Union[Procedure, _Mapping]] = ..., similarity: _Optional[float] = ...) -> None: ...

class SearchProceduresReply(_message.Message):
    __slots__ = ("procedures",)
    PROCEDURES_FIELD_NUMBER: _ClassVar[int]
    procedures: _containers.RepeatedCompositeFieldContainer[ScoredProcedure]
    def __init__(self, procedures: _Optional[_Iterable[_Union[ScoredProcedure, _Mapping]]] = ...) -> None: ...

class ListProceduresRequest(_message.Message):
    __slots__ = ("tenant", "limit")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    limit: int
    def __init__(self, tenant: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListProceduresReply(_message.Message):
    __slots__ = ("procedures",)
    PROCEDURES_FIELD_NUMBER: _ClassVar[int]
    procedures: _containers.RepeatedCompositeFieldContainer[Procedure]
    def __init__(self, procedures: _Optional[_Iterable[_Union[Procedure, _Mapping]]] = ...) -> None: ...

class DeleteProcedureRequest(_message.Message):
    __slots__ = ("tenant", "id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    id: str
    def __init__(self, tenant: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class DeleteProcedureReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class CreditProceduresRequest(_message.Message):
    __slots__ = ("tenant", "ids", "outcome")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    outcome: float
    def __init__(self, tenant: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., outcome: _Optional[float] = ...) -> None: ...

class CreditProceduresReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EdgeUpdate(_message.Message):
    __slots__ = ("source", "target", "kind", "factor", "add")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    kind: str
    factor: float
    add: float
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., kind: _Optional[str] = ..., factor: _Optional[float] = ..., add: _Optional[float] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "embedding")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    name: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class UpdateEdgesRequest(_message.Message):
    __slots__ = ("updates", "tenant", "nodes")
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    updates: _containers.RepeatedCompositeFieldContainer[EdgeUpdate]
    tenant: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, updates: _Optional[_Iterable[_Union[EdgeUpdate, _Mapping]]] = ..., tenant: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class UpdateEdgesReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NeighboursRequest(_message.Message):
    __slots__ = ("node", "kind", "limit", "tenant")
    NODE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    node: str
    kind: str
    limit: int
    tenant: str
    def __init__(self, node: _Optional[str] = ..., kind: _Optional[str] = ..., limit: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class Edge(_message.Message):
    __slots__ = ("source", "target", "kind", "weight", "age_ms", "uses")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    kind: str
    weight: float
    age_ms: int
    uses: int
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., kind: _Optional[str] = ..., weight: _Optional[float] = ..., age_ms: _Optional[int] = ..., uses: _Optional[int] = ...) -> None: ...

class NeighboursReply(_message.Message):
    __slots__ = ("edges",)
    EDGES_FIELD_NUMBER: _ClassVar[int]
    edges: _containers.RepeatedCompositeFieldContainer[Edge]
    def __init__(self, edges: _Optional[_Iterable[_Union[Edge, _Mapping]]] = ...) -> None: ...

class NeighbourhoodRequest(_message.Message):
    __slots__ = ("tenant", "nodes", "embedding", "nearest", "kind", "first", "second", "onward")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    NEAREST_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    ONWARD_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    nearest: int
    kind: str
    first: int
    second: int
    onward: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., embedding: _Optional[_Iterable[float]] = ..., nearest: _Optional[int] = ..., kind: _Optional[str] = ..., first: _Optional[int] = ..., second: _Optional[int] = ..., onward: _Optional[_Iterable[str]] = ...) -> None: ...

class NearNode(_message.Message):
    __slots__ = ("name", "similarity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    similarity: float
    def __init__(self, name: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...

class NeighbourhoodReply(_message.Message):
    __slots__ = ("nearest", "edges")
    NEAREST_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    nearest: _containers.RepeatedCompositeFieldContainer[NearNode]
    edges: _containers.RepeatedCompositeFieldContainer[Edge]
    def __init__(self, nearest: _Optional[_Iterable[_Union[NearNode, _Mapping]]] = ..., edges: _Optional[_Iterable[_Union[Edge, _Mapping]]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("embedder", "width", "sessions", "witness_entries", "witness_queued", "witness_dropped", "policies", "edges", "embedders", "witness_unembedded", "witness_archived", "graph_nodes")
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WITNESS_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    WITNESS_QUEUED_FIELD_NUMBER: _ClassVar[int]
    WITNESS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDERS_FIELD_NUMBER: _ClassVar[int]
    WITNESS_UNEMBEDDED_FIELD_NUMBER: _ClassVar[int]
    WITNESS_ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    GRAPH_NODES_FIELD_NUMBER: _ClassVar[int]
    embedder: str
    width: int
    sessions: int
    witness_entries: int
    witness_queued: int
    witness_dropped: int
    policies: int
    edges: int
    embedders: _containers.RepeatedScalarFieldContainer[str]
    witness_unembedded: int
    witness_archived: int
    graph_nodes: int
    def __init__(self, embedder: _Optional[str] = ..., width: _Optional[int] = ..., sessions: _Optional[int] = ..., witness_entries: _Optional[int] = ..., witness_queued: _Optional[int] = ..., witness_dropped: _Optional[int] = ..., policies: _Optional[int] = ..., edges: _Optional[int] = ..., embedders: _Optional[_Iterable[str]] = ..., witness_unembedded: _Optional[int] = ..., witness_archived: _Optional[int] = ..., graph_nodes: _Optional[int] = ...) -> None: ...
