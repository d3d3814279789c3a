from protos.gen import inference_pb2 as _inference_pb2
from protos.gen import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "token_ids", "prompt_tokens", "sampling", "max_tokens", "min_tokens", "ignore_eos", "priority", "tenant", "session_id", "resumed_from_epoch", "kv_format", "keep", "kv_source", "logprobs", "stop_token_ids", "score_from", "prediction", "grammar", "losses")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FROM_EPOCH_FIELD_NUMBER: _ClassVar[int]
    KV_FORMAT_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    KV_SOURCE_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FROM_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    prompt_tokens: int
    sampling: _inference_pb2.Sampling
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    priority: _inference_pb2.Priority
    tenant: str
    session_id: str
    resumed_from_epoch: int
    kv_format: str
    keep: bool
    kv_source: _containers.RepeatedScalarFieldContainer[str]
    logprobs: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    score_from: int
    prediction: _containers.RepeatedScalarFieldContainer[int]
    grammar: _inference_pb2.Grammar
    losses: int
    def __init__(self, request_id: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., prompt_tokens: _Optional[int] = ..., sampling: _Optional[_Union[_inference_pb2.Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., min_tokens: _Optional[int] = ..., ignore_eos: _Optional[bool] = ..., priority: _Optional[_Union[_inference_pb2.Priority, str]] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., resumed_from_epoch: _Optional[int] = ..., kv_format: _Optional[str] = ..., keep: _Optional[bool] = ..., kv_source: _Optional[_Iterable[str]] = ..., logprobs: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., score_from: _Optional[int] = ..., prediction: _Optional[_Iterable[int]] = ..., grammar: _Optional[_Union[_inference_pb2.Grammar, _Mapping]] = ..., losses: _Optional[int] = ...) -> None: ...

class GenerateEvent(_message.Message):
    __slots__ = ("token_ids", "finish_reason", "admission", "timings", "logprobs", "prompt_logprobs", "drafted_tokens", "accepted_tokens", "stalled", "losses")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    finish_reason: _inference_pb2.FinishReason
    admission: Admission
    timings: Timings
    logprobs: _worker_pb2.Logprobs
    prompt_logprobs: _worker_pb2.Logprobs
    drafted_tokens: int
    accepted_tokens: int
    stalled: bool
    losses: int
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., finish_reason: _Optional[_Union[_inference_pb2.FinishReason, str]] = ..., admission: _Optional[_Union[Admission, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., logprobs: _Optional[_Union[_worker_pb2.Logprobs, _Mapping]] = ..., prompt_logprobs: _Optional[_Union[_worker_pb2.Logprobs, _Mapping]] = ..., drafted_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., stalled: _Optional[bool] = ..., losses: _Optional[int] = ...) -> None: ...

class Admission(_message.Message):
    __slots__ = ("replica_id", "epoch", "cached_tokens", "queue_us", "kv_format", "restored_tokens")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    KV_FORMAT_FIELD_NUMBER: _ClassVar[int]
    RESTORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    epoch: int
    cached_tokens: int
    queue_us: int
    kv_format: str
    restored_tokens: int
    def __init__(self, replica_id: _Optional[str] = ..., epoch: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., queue_us: _Optional[int] = ..., kv_format: _Optional[str] = ..., restored_tokens: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_us", "prefill_us", "decode_us", "preemptions")
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    PREFILL_US_FIELD_NUMBER: _ClassVar[int]
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    queue_us: int
    prefill_us: int
    decode_us: int
    preemptions: int
    def __init__(self, queue_us: _Optional[int] = ..., prefill_us: _Optional[int] = ..., decode_us: _Optional[int] = ..., preemptions: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("known_vocabularies",)
    KNOWN_VOCABULARIES_FIELD_NUMBER: _ClassVar[int]
    known_vocabularies: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, known_vocabularies: _Optional[_Iterable[bytes]] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("replica_id", "model", "vocabulary", "load", "vocabulary_digest")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    model: _worker_pb2.ModelInfo
    vocabulary: _worker_pb2.Vocabulary
    load: ReplicaLoad
    vocabulary_digest: bytes
    def __init__(self, replica_id: _Optional[str] = ..., model: _Optional[_Union[_worker_pb2.ModelInfo, _Mapping]] = ..., vocabulary: _Optional[_Union[_worker_pb2.Vocabulary, _Mapping]] = ..., load: _Optional[_Union[ReplicaLoad, _Mapping]] = ..., vocabulary_digest: _Optional[bytes] = ...) -> None: ...

class ReplicaLoad(_message.Message):
    __slots__ = ("epoch", "ready", "draining", "running", "waiting", "queue_limit", "pages_used", "pages_total", "page_size", "prefill_backlog_tokens", "prefill_tokens_per_s", "decode_tokens_per_s", "step_us", "kv_bytes", "kv_tiers", "kv_kept_tokens", "running_limit", "queue_delay_s")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGES_USED_FIELD_NUMBER: _ClassVar[int]
    PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_BACKLOG_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_US_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_TIERS_FIELD_NUMBER: _ClassVar[int]
    KV_KEPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_LIMIT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    ready: bool
    draining: bool
    running: int
    waiting: int
    queue_limit: int
    pages_used: int
    pages_total: int
    page_size: int
    prefill_backlog_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    step_us: float
    kv_bytes: int
    kv_tiers: _containers.RepeatedCompositeFieldContainer[KvTierLoad]
    kv_kept_tokens: int
    running_limit: int
    queue_delay_s: float
    def __init__(self, epoch: _Optional[int] = ..., ready: _Optional[bool] = ..., draining: _Optional[bool] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., queue_limit: _Optional[int] = ..., pages_used: _Optional[int] = ..., pages_total: _Optional[int] = ..., page_size: _Optional[int] = ..., prefill_backlog_tokens: _Optional[int] = ..., prefill_tokens_per_s: _Optional[float] = ..., decode_tokens_per_s: _Optional[float] = ..., step_us: _Optional[float] = ..., kv_bytes: _Optional[int] = ..., kv_tiers: _Optional[_Iterable[_Union[KvTierLoad, _Mapping]]] = ..., kv_kept_tokens: _Optional[int] = ..., running_limit: _Optional[int] = ..., queue_delay_s: _Optional[float] = ...) -> None: ...

class KvTierLoad(_message.Message):
    __slots__ = ("format", "live_bytes", "cached_bytes")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    LIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CACHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    format: str
    live_bytes: int
    cached_bytes: int
    def __init__(self, format: _Optional[str] = ..., live_bytes: _Optional[int] = ..., cached_bytes: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("timeout_s", "unload")
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    UNLOAD_FIELD_NUMBER: _ClassVar[int]
    timeout_s: float
    unload: bool
    def __init__(self, timeout_s: _Optional[float] = ..., unload: _Optional[bool] = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("remaining",)
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    remaining: int
    def __init__(self, remaining: _Optional[int] = ...) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckReply(_message.Message):
    __slots__ = ("problems", "live_sequences", "pages_used")
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    LIVE_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    PAGES_USED_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedScalarFieldContainer[str]
    live_sequences: int
    pages_used: int
    def __init__(self, problems: _Optional[_Iterable[str]] = ..., live_sequences: _Optional[int] = ..., pages_used: _Optional[int] = ...) -> None: ...
