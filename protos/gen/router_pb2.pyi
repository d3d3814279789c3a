from protos.gen import inference_pb2 as _inference_pb2
from protos.gen import scheduler_pb2 as _scheduler_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RouteRequest(_message.Message):
    __slots__ = ("request_id", "model", "tenant", "session_id", "prompt_tokens", "prefix_hashes", "max_tokens", "priority", "exclude", "isa_class", "session_replica", "route_key", "settled", "begun", "text", "latency_budget_ms", "turns", "dry")
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
    SESSION_REPLICA_FIELD_NUMBER: _ClassVar[int]
    ROUTE_KEY_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    DRY_FIELD_NUMBER: _ClassVar[int]
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
    session_replica: str
    route_key: str
    settled: str
    begun: bool
    text: str
    latency_budget_ms: float
    turns: int
    dry: bool
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., prefix_hashes: _Optional[_Iterable[int]] = ..., max_tokens: _Optional[int] = ..., priority: _Optional[_Union[_inference_pb2.Priority, str]] = ..., exclude: _Optional[_Iterable[str]] = ..., isa_class: _Optional[str] = ..., session_replica: _Optional[str] = ..., route_key: _Optional[str] = ..., settled: _Optional[str] = ..., begun: _Optional[bool] = ..., text: _Optional[str] = ..., latency_budget_ms: _Optional[float] = ..., turns: _Optional[int] = ..., dry: _Optional[bool] = ...) -> None: ...

class RouteReply(_message.Message):
    __slots__ = ("model", "candidates", "confidence", "explanation", "alias", "choice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    confidence: float
    explanation: _containers.RepeatedScalarFieldContainer[str]
    alias: str
    choice: ModelChoice
    def __init__(self, model: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., confidence: _Optional[float] = ..., explanation: _Optional[_Iterable[str]] = ..., alias: _Optional[str] = ..., choice: _Optional[_Union[ModelChoice, _Mapping]] = ...) -> None: ...

class ModelChoice(_message.Message):
    __slots__ = ("router", "shares", "confidence", "temperature", "top_p", "context", "neighbours", "patterns", "pattern")
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    router: str
    shares: _containers.RepeatedCompositeFieldContainer[LabelScore]
    confidence: float
    temperature: float
    top_p: float
    context: int
    neighbours: _containers.RepeatedCompositeFieldContainer[Near]
    patterns: _containers.RepeatedScalarFieldContainer[str]
    pattern: str
    def __init__(self, router: _Optional[str] = ..., shares: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., confidence: _Optional[float] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., context: _Optional[int] = ..., neighbours: _Optional[_Iterable[_Union[Near, _Mapping]]] = ..., patterns: _Optional[_Iterable[str]] = ..., pattern: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("replica_id", "addresses", "node", "model", "context_length", "isa_class", "load", "sequence", "incarnation", "leaving", "worker_addresses", "unloading", "weight_bytes")
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
    UNLOADING_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
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
    unloading: bool
    weight_bytes: int
    def __init__(self, replica_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., node: _Optional[str] = ..., model: _Optional[str] = ..., context_length: _Optional[int] = ..., isa_class: _Optional[str] = ..., load: _Optional[_Union[_scheduler_pb2.ReplicaLoad, _Mapping]] = ..., sequence: _Optional[int] = ..., incarnation: _Optional[str] = ..., leaving: _Optional[bool] = ..., worker_addresses: _Optional[_Iterable[str]] = ..., unloading: _Optional[bool] = ..., weight_bytes: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("replicas", "default_model", "aliases", "retired")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    default_model: str
    aliases: _containers.RepeatedCompositeFieldContainer[_inference_pb2.Alias]
    retired: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., default_model: _Optional[str] = ..., aliases: _Optional[_Iterable[_Union[_inference_pb2.Alias, _Mapping]]] = ..., retired: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("request_id", "replica_id", "session_id", "tenant", "prefix_hashes", "succeeded", "ttft_ms", "tpot_ms", "prompt_tokens", "cached_tokens", "completion_tokens")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASHES_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TPOT_MS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    replica_id: str
    session_id: str
    tenant: str
    prefix_hashes: _containers.RepeatedScalarFieldContainer[int]
    succeeded: bool
    ttft_ms: float
    tpot_ms: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    def __init__(self, request_id: _Optional[str] = ..., replica_id: _Optional[str] = ..., session_id: _Optional[str] = ..., tenant: _Optional[str] = ..., prefix_hashes: _Optional[_Iterable[int]] = ..., succeeded: _Optional[bool] = ..., ttft_ms: _Optional[float] = ..., tpot_ms: _Optional[float] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAliasesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAliasesReply(_message.Message):
    __slots__ = ("aliases",)
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    aliases: _containers.RepeatedCompositeFieldContainer[_inference_pb2.Alias]
    def __init__(self, aliases: _Optional[_Iterable[_Union[_inference_pb2.Alias, _Mapping]]] = ...) -> None: ...

class PutAliasRequest(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: _inference_pb2.Alias
    def __init__(self, alias: _Optional[_Union[_inference_pb2.Alias, _Mapping]] = ...) -> None: ...

class PutAliasReply(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: _inference_pb2.Alias
    def __init__(self, alias: _Optional[_Union[_inference_pb2.Alias, _Mapping]] = ...) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteAliasReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("alias", "model", "succeeded", "ttft_ms", "tpot_ms", "quality", "rating")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TPOT_MS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    alias: str
    model: str
    succeeded: bool
    ttft_ms: float
    tpot_ms: float
    quality: float
    rating: float
    def __init__(self, alias: _Optional[str] = ..., model: _Optional[str] = ..., succeeded: _Optional[bool] = ..., ttft_ms: _Optional[float] = ..., tpot_ms: _Optional[float] = ..., quality: _Optional[float] = ..., rating: _Optional[float] = ...) -> None: ...

class ReportOutcomesRequest(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class ReportOutcomesReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Example(_message.Message):
    __slots__ = ("text", "label")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    text: str
    label: str
    def __init__(self, text: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class TrainRouterRequest(_message.Message):
    __slots__ = ("tenant", "router", "examples")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    router: str
    examples: _containers.RepeatedCompositeFieldContainer[Example]
    def __init__(self, tenant: _Optional[str] = ..., router: _Optional[str] = ..., examples: _Optional[_Iterable[_Union[Example, _Mapping]]] = ...) -> None: ...

class PruneRouterRequest(_message.Message):
    __slots__ = ("tenant", "router", "texts", "labels", "merge_above")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MERGE_ABOVE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    router: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    merge_above: float
    def __init__(self, tenant: _Optional[str] = ..., router: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ..., merge_above: _Optional[float] = ...) -> None: ...

class DeleteRouterRequest(_message.Message):
    __slots__ = ("tenant", "router")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    router: str
    def __init__(self, tenant: _Optional[str] = ..., router: _Optional[str] = ...) -> None: ...

class DeleteRouterReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class ListRoutersRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class ListRoutersReply(_message.Message):
    __slots__ = ("routers",)
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    routers: _containers.RepeatedCompositeFieldContainer[RouterCard]
    def __init__(self, routers: _Optional[_Iterable[_Union[RouterCard, _Mapping]]] = ...) -> None: ...

class RouterCard(_message.Message):
    __slots__ = ("router", "examples", "labels", "embedder", "accuracy", "calibration_error", "head_weight", "shipped")
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    HEAD_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SHIPPED_FIELD_NUMBER: _ClassVar[int]
    router: str
    examples: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    embedder: str
    accuracy: float
    calibration_error: float
    head_weight: float
    shipped: bool
    def __init__(self, router: _Optional[str] = ..., examples: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ..., embedder: _Optional[str] = ..., accuracy: _Optional[float] = ..., calibration_error: _Optional[float] = ..., head_weight: _Optional[float] = ..., shipped: _Optional[bool] = ...) -> None: ...

class RouterReply(_message.Message):
    __slots__ = ("router", "changed")
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    router: RouterCard
    changed: int
    def __init__(self, router: _Optional[_Union[RouterCard, _Mapping]] = ..., changed: _Optional[int] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("tenant", "router", "text")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    router: str
    text: str
    def __init__(self, tenant: _Optional[str] = ..., router: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ClassifyReply(_message.Message):
    __slots__ = ("label", "confidence", "in_scope", "scope_score", "scope_threshold", "alternatives", "neighbours", "id")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    IN_SCOPE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_SCORE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    label: str
    confidence: float
    in_scope: bool
    scope_score: float
    scope_threshold: float
    alternatives: _containers.RepeatedCompositeFieldContainer[LabelScore]
    neighbours: _containers.RepeatedCompositeFieldContainer[Near]
    id: str
    def __init__(self, label: _Optional[str] = ..., confidence: _Optional[float] = ..., in_scope: _Optional[bool] = ..., scope_score: _Optional[float] = ..., scope_threshold: _Optional[float] = ..., alternatives: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., neighbours: _Optional[_Iterable[_Union[Near, _Mapping]]] = ..., id: _Optional[str] = ...) -> None: ...

class LabelScore(_message.Message):
    __slots__ = ("label", "confidence")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    label: str
    confidence: float
    def __init__(self, label: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class Near(_message.Message):
    __slots__ = ("text", "label", "similarity")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    label: str
    similarity: float
    def __init__(self, text: _Optional[str] = ..., label: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...

class OutcomeRequest(_message.Message):
    __slots__ = ("tenant", "id", "outcome", "label")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    id: str
    outcome: float
    label: str
    def __init__(self, tenant: _Optional[str] = ..., id: _Optional[str] = ..., outcome: _Optional[float] = ..., label: _Optional[str] = ...) -> None: ...

class OutcomeReply(_message.Message):
    __slots__ = ("found", "change")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    found: bool
    change: str
    def __init__(self, found: _Optional[bool] = ..., change: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("tenant", "prompts")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    prompts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., prompts: _Optional[_Iterable[str]] = ...) -> None: ...

class ScoreReply(_message.Message):
    __slots__ = ("p", "version", "embedded")
    P_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    p: _containers.RepeatedScalarFieldContainer[float]
    version: int
    embedded: bool
    def __init__(self, p: _Optional[_Iterable[float]] = ..., version: _Optional[int] = ..., embedded: _Optional[bool] = ...) -> None: ...

class CostRow(_message.Message):
    __slots__ = ("prompt", "weak_correct", "strong_correct", "tokens", "temperature", "top_p")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    WEAK_CORRECT_FIELD_NUMBER: _ClassVar[int]
    STRONG_CORRECT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    weak_correct: bool
    strong_correct: bool
    tokens: int
    temperature: float
    top_p: float
    def __init__(self, prompt: _Optional[str] = ..., weak_correct: _Optional[bool] = ..., strong_correct: _Optional[bool] = ..., tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ...) -> None: ...

class TrainCostRequest(_message.Message):
    __slots__ = ("tenant", "rows", "margin")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    rows: _containers.RepeatedCompositeFieldContainer[CostRow]
    margin: float
    def __init__(self, tenant: _Optional[str] = ..., rows: _Optional[_Iterable[_Union[CostRow, _Mapping]]] = ..., margin: _Optional[float] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("value", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class TrainCostReply(_message.Message):
    __slots__ = ("served", "reasons", "over_current", "serving")
    SERVED_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    OVER_CURRENT_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    served: bool
    reasons: _containers.RepeatedScalarFieldContainer[str]
    over_current: Estimate
    serving: CostCard
    def __init__(self, served: _Optional[bool] = ..., reasons: _Optional[_Iterable[str]] = ..., over_current: _Optional[_Union[Estimate, _Mapping]] = ..., serving: _Optional[_Union[CostCard, _Mapping]] = ...) -> None: ...

class GetCostRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class CostCard(_message.Message):
    __slots__ = ("version", "rows", "embedder", "over_chance", "over_length", "calibration_error", "confidence_error")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    OVER_CHANCE_FIELD_NUMBER: _ClassVar[int]
    OVER_LENGTH_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_ERROR_FIELD_NUMBER: _ClassVar[int]
    version: int
    rows: int
    embedder: str
    over_chance: Estimate
    over_length: Estimate
    calibration_error: float
    confidence_error: float
    def __init__(self, version: _Optional[int] = ..., rows: _Optional[int] = ..., embedder: _Optional[str] = ..., over_chance: _Optional[_Union[Estimate, _Mapping]] = ..., over_length: _Optional[_Union[Estimate, _Mapping]] = ..., calibration_error: _Optional[float] = ..., confidence_error: _Optional[float] = ...) -> None: ...
