from protos.gen import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RowEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROW_RUNNING: _ClassVar[RowEnd]
    ROW_STOP: _ClassVar[RowEnd]
    ROW_LENGTH: _ClassVar[RowEnd]
    ROW_ERROR: _ClassVar[RowEnd]
ROW_RUNNING: RowEnd
ROW_STOP: RowEnd
ROW_LENGTH: RowEnd
ROW_ERROR: RowEnd

class HelloRequest(_message.Message):
    __slots__ = ("scheduler_id", "known_vocabulary")
    SCHEDULER_ID_FIELD_NUMBER: _ClassVar[int]
    KNOWN_VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    scheduler_id: str
    known_vocabulary: bytes
    def __init__(self, scheduler_id: _Optional[str] = ..., known_vocabulary: _Optional[bytes] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("epoch", "model", "vocabulary", "pages", "page_size", "max_step_tokens", "max_rows", "isa_class", "pid", "vocabulary_digest", "tiers", "kv_bytes", "kept", "keeps")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    ISA_CLASS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    KEEPS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    model: ModelInfo
    vocabulary: Vocabulary
    pages: int
    page_size: int
    max_step_tokens: int
    max_rows: int
    isa_class: str
    pid: int
    vocabulary_digest: bytes
    tiers: _containers.RepeatedCompositeFieldContainer[KvTier]
    kv_bytes: int
    kept: bytes
    keeps: bool
    def __init__(self, epoch: _Optional[int] = ..., model: _Optional[_Union[ModelInfo, _Mapping]] = ..., vocabulary: _Optional[_Union[Vocabulary, _Mapping]] = ..., pages: _Optional[int] = ..., page_size: _Optional[int] = ..., max_step_tokens: _Optional[int] = ..., max_rows: _Optional[int] = ..., isa_class: _Optional[str] = ..., pid: _Optional[int] = ..., vocabulary_digest: _Optional[bytes] = ..., tiers: _Optional[_Iterable[_Union[KvTier, _Mapping]]] = ..., kv_bytes: _Optional[int] = ..., kept: _Optional[bytes] = ..., keeps: _Optional[bool] = ...) -> None: ...

class KvTier(_message.Message):
    __slots__ = ("format", "first_page", "units", "unit_pages", "unit_bytes")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FIRST_PAGE_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    UNIT_PAGES_FIELD_NUMBER: _ClassVar[int]
    UNIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    format: str
    first_page: int
    units: int
    unit_pages: int
    unit_bytes: int
    def __init__(self, format: _Optional[str] = ..., first_page: _Optional[int] = ..., units: _Optional[int] = ..., unit_pages: _Optional[int] = ..., unit_bytes: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: bytes
    def __init__(self, keys: _Optional[bytes] = ...) -> None: ...

class KeptUnit(_message.Message):
    __slots__ = ("key", "piece", "end")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    piece: bytes
    end: bool
    def __init__(self, key: _Optional[bytes] = ..., piece: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("id", "family", "revision", "context_length", "kv_bytes_per_token", "weight_bytes", "parameters")
    ID_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    family: str
    revision: str
    context_length: int
    kv_bytes_per_token: int
    weight_bytes: int
    parameters: int
    def __init__(self, id: _Optional[str] = ..., family: _Optional[str] = ..., revision: _Optional[str] = ..., context_length: _Optional[int] = ..., kv_bytes_per_token: _Optional[int] = ..., weight_bytes: _Optional[int] = ..., parameters: _Optional[int] = ...) -> None: ...

class Vocabulary(_message.Message):
    __slots__ = ("tokenizer_json", "chat_template", "eos_ids", "bos_id", "add_bos", "vocab_size")
    TOKENIZER_JSON_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    EOS_IDS_FIELD_NUMBER: _ClassVar[int]
    BOS_ID_FIELD_NUMBER: _ClassVar[int]
    ADD_BOS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    tokenizer_json: bytes
    chat_template: str
    eos_ids: _containers.RepeatedScalarFieldContainer[int]
    bos_id: int
    add_bos: bool
    vocab_size: int
    def __init__(self, tokenizer_json: _Optional[bytes] = ..., chat_template: _Optional[str] = ..., eos_ids: _Optional[_Iterable[int]] = ..., bos_id: _Optional[int] = ..., add_bos: _Optional[bool] = ..., vocab_size: _Optional[int] = ...) -> None: ...

class RowStart(_message.Message):
    __slots__ = ("row", "token_ids", "prompt_tokens", "cached_tokens", "sampling", "max_length", "min_tokens", "stop_ids", "traceparent", "logprobs", "score_from", "prediction", "draft_pool", "grammar", "request_id")
    ROW_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FROM_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    DRAFT_POOL_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    row: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    prompt_tokens: int
    cached_tokens: int
    sampling: _inference_pb2.Sampling
    max_length: int
    min_tokens: int
    stop_ids: _containers.RepeatedScalarFieldContainer[int]
    traceparent: str
    logprobs: int
    score_from: int
    prediction: _containers.RepeatedScalarFieldContainer[int]
    draft_pool: bytes
    grammar: _inference_pb2.Grammar
    request_id: str
    def __init__(self, row: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., sampling: _Optional[_Union[_inference_pb2.Sampling, _Mapping]] = ..., max_length: _Optional[int] = ..., min_tokens: _Optional[int] = ..., stop_ids: _Optional[_Iterable[int]] = ..., traceparent: _Optional[str] = ..., logprobs: _Optional[int] = ..., score_from: _Optional[int] = ..., prediction: _Optional[_Iterable[int]] = ..., draft_pool: _Optional[bytes] = ..., grammar: _Optional[_Union[_inference_pb2.Grammar, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("epoch", "plan_id", "start", "row", "limit", "page_count", "pages", "copy_from", "copy_to", "step_tokens", "itl_target_us", "release", "save", "save_keys", "demote_from", "demote_to", "load", "load_keys", "load_from")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    COPY_FROM_FIELD_NUMBER: _ClassVar[int]
    COPY_TO_FIELD_NUMBER: _ClassVar[int]
    STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ITL_TARGET_US_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    SAVE_KEYS_FIELD_NUMBER: _ClassVar[int]
    DEMOTE_FROM_FIELD_NUMBER: _ClassVar[int]
    DEMOTE_TO_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    LOAD_KEYS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FROM_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    plan_id: int
    start: _containers.RepeatedCompositeFieldContainer[RowStart]
    row: _containers.RepeatedScalarFieldContainer[int]
    limit: _containers.RepeatedScalarFieldContainer[int]
    page_count: _containers.RepeatedScalarFieldContainer[int]
    pages: _containers.RepeatedScalarFieldContainer[int]
    copy_from: _containers.RepeatedScalarFieldContainer[int]
    copy_to: _containers.RepeatedScalarFieldContainer[int]
    step_tokens: int
    itl_target_us: int
    release: _containers.RepeatedScalarFieldContainer[int]
    save: _containers.RepeatedScalarFieldContainer[int]
    save_keys: bytes
    demote_from: _containers.RepeatedScalarFieldContainer[int]
    demote_to: _containers.RepeatedScalarFieldContainer[int]
    load: _containers.RepeatedScalarFieldContainer[int]
    load_keys: bytes
    load_from: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, epoch: _Optional[int] = ..., plan_id: _Optional[int] = ..., start: _Optional[_Iterable[_Union[RowStart, _Mapping]]] = ..., row: _Optional[_Iterable[int]] = ..., limit: _Optional[_Iterable[int]] = ..., page_count: _Optional[_Iterable[int]] = ..., pages: _Optional[_Iterable[int]] = ..., copy_from: _Optional[_Iterable[int]] = ..., copy_to: _Optional[_Iterable[int]] = ..., step_tokens: _Optional[int] = ..., itl_target_us: _Optional[int] = ..., release: _Optional[_Iterable[int]] = ..., save: _Optional[_Iterable[int]] = ..., save_keys: _Optional[bytes] = ..., demote_from: _Optional[_Iterable[int]] = ..., demote_to: _Optional[_Iterable[int]] = ..., load: _Optional[_Iterable[int]] = ..., load_keys: _Optional[bytes] = ..., load_from: _Optional[_Iterable[str]] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("epoch", "plan_id", "step", "row", "computed", "token_count", "token_ids", "end", "error", "busy_us", "gap_us", "prefill_tokens", "decode_tokens", "saved", "lost", "loaded", "unloaded", "load_bytes", "load_us", "logprobs", "prompt_logprobs", "drafted", "accepted")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    BUSY_US_FIELD_NUMBER: _ClassVar[int]
    GAP_US_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    UNLOADED_FIELD_NUMBER: _ClassVar[int]
    LOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_US_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    plan_id: int
    step: int
    row: _containers.RepeatedScalarFieldContainer[int]
    computed: _containers.RepeatedScalarFieldContainer[int]
    token_count: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    end: _containers.RepeatedScalarFieldContainer[RowEnd]
    error: _containers.RepeatedScalarFieldContainer[str]
    busy_us: int
    gap_us: int
    prefill_tokens: int
    decode_tokens: int
    saved: bytes
    lost: bytes
    loaded: _containers.RepeatedScalarFieldContainer[int]
    unloaded: _containers.RepeatedScalarFieldContainer[int]
    load_bytes: int
    load_us: int
    logprobs: _containers.RepeatedCompositeFieldContainer[Logprobs]
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[Logprobs]
    drafted: _containers.RepeatedScalarFieldContainer[int]
    accepted: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, epoch: _Optional[int] = ..., plan_id: _Optional[int] = ..., step: _Optional[int] = ..., row: _Optional[_Iterable[int]] = ..., computed: _Optional[_Iterable[int]] = ..., token_count: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., end: _Optional[_Iterable[_Union[RowEnd, str]]] = ..., error: _Optional[_Iterable[str]] = ..., busy_us: _Optional[int] = ..., gap_us: _Optional[int] = ..., prefill_tokens: _Optional[int] = ..., decode_tokens: _Optional[int] = ..., saved: _Optional[bytes] = ..., lost: _Optional[bytes] = ..., loaded: _Optional[_Iterable[int]] = ..., unloaded: _Optional[_Iterable[int]] = ..., load_bytes: _Optional[int] = ..., load_us: _Optional[int] = ..., logprobs: _Optional[_Iterable[_Union[Logprobs, _Mapping]]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[Logprobs, _Mapping]]] = ..., drafted: _Optional[_Iterable[int]] = ..., accepted: _Optional[_Iterable[int]] = ...) -> None: ...

class Logprobs(_message.Message):
    __slots__ = ("chosen", "tops", "top_ids", "top_values", "row")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    TOPS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_VALUES_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    chosen: _containers.RepeatedScalarFieldContainer[float]
    tops: int
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    top_values: _containers.RepeatedScalarFieldContainer[float]
    row: int
    def __init__(self, chosen: _Optional[_Iterable[float]] = ..., tops: _Optional[int] = ..., top_ids: _Optional[_Iterable[int]] = ..., top_values: _Optional[_Iterable[float]] = ..., row: _Optional[int] = ...) -> None: ...
