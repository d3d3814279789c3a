from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_IN_PROGRESS: _ClassVar[Status]
    STATUS_COMPLETED: _ClassVar[Status]
    STATUS_FAILED: _ClassVar[Status]
STATUS_UNSPECIFIED: Status
STATUS_IN_PROGRESS: Status
STATUS_COMPLETED: Status
STATUS_FAILED: Status

class File(_message.Message):
    __slots__ = ("id", "name", "bytes", "created_ms", "purpose")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    bytes: int
    created_ms: int
    purpose: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., bytes: _Optional[int] = ..., created_ms: _Optional[int] = ..., purpose: _Optional[str] = ...) -> None: ...

class PutFileRequest(_message.Message):
    __slots__ = ("tenant", "name", "content", "purpose")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    content: bytes
    purpose: str
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ..., content: _Optional[bytes] = ..., purpose: _Optional[str] = ...) -> None: ...

class FileRequest(_message.Message):
    __slots__ = ("tenant", "file_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    file_id: str
    def __init__(self, tenant: _Optional[str] = ..., file_id: _Optional[str] = ...) -> None: ...

class FileContent(_message.Message):
    __slots__ = ("file", "content")
    FILE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    file: File
    content: bytes
    def __init__(self, file: _Optional[_Union[File, _Mapping]] = ..., content: _Optional[bytes] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class ListFilesReply(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[File]
    def __init__(self, files: _Optional[_Iterable[_Union[File, _Mapping]]] = ...) -> None: ...

class DeleteReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class VectorStore(_message.Message):
    __slots__ = ("id", "name", "created_ms", "metadata", "in_progress", "completed", "failed", "usage_bytes")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    USAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    created_ms: int
    metadata: _containers.ScalarMap[str, str]
    in_progress: int
    completed: int
    failed: int
    usage_bytes: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., created_ms: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., in_progress: _Optional[int] = ..., completed: _Optional[int] = ..., failed: _Optional[int] = ..., usage_bytes: _Optional[int] = ...) -> None: ...

class PutStoreRequest(_message.Message):
    __slots__ = ("tenant", "id", "name", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    id: str
    name: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, tenant: _Optional[str] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class StoreRequest(_message.Message):
    __slots__ = ("tenant", "store_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    store_id: str
    def __init__(self, tenant: _Optional[str] = ..., store_id: _Optional[str] = ...) -> None: ...

class ListStoresReply(_message.Message):
    __slots__ = ("stores",)
    STORES_FIELD_NUMBER: _ClassVar[int]
    stores: _containers.RepeatedCompositeFieldContainer[VectorStore]
    def __init__(self, stores: _Optional[_Iterable[_Union[VectorStore, _Mapping]]] = ...) -> None: ...

class Chunking(_message.Message):
    __slots__ = ("max_tokens", "overlap_tokens")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    overlap_tokens: int
    def __init__(self, max_tokens: _Optional[int] = ..., overlap_tokens: _Optional[int] = ...) -> None: ...

class Attached(_message.Message):
    __slots__ = ("store_id", "file_id", "created_ms", "status", "error", "chunks", "usage_bytes", "chunking")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    USAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNKING_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    file_id: str
    created_ms: int
    status: Status
    error: str
    chunks: int
    usage_bytes: int
    chunking: Chunking
    def __init__(self, store_id: _Optional[str] = ..., file_id: _Optional[str] = ..., created_ms: _Optional[int] = ..., status: _Optional[_Union[Status, str]] = ..., error: _Optional[str] = ..., chunks: _Optional[int] = ..., usage_bytes: _Optional[int] = ..., chunking: _Optional[_Union[Chunking, _Mapping]] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("tenant", "store_id", "file_id", "chunking")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNKING_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    store_id: str
    file_id: str
    chunking: Chunking
    def __init__(self, tenant: _Optional[str] = ..., store_id: _Optional[str] = ..., file_id: _Optional[str] = ..., chunking: _Optional[_Union[Chunking, _Mapping]] = ...) -> None: ...

class AttachedRequest(_message.Message):
    __slots__ = ("tenant", "store_id", "file_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    store_id: str
    file_id: str
    def __init__(self, tenant: _Optional[str] = ..., store_id: _Optional[str] = ..., file_id: _Optional[str] = ...) -> None: ...

class ListAttachedReply(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[Attached]
    def __init__(self, files: _Optional[_Iterable[_Union[Attached, _Mapping]]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("store_id", "file_id", "file_name", "index", "start", "end", "text", "score")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    file_id: str
    file_name: str
    index: int
    start: int
    end: int
    text: str
    score: float
    def __init__(self, store_id: _Optional[str] = ..., file_id: _Optional[str] = ..., file_name: _Optional[str] = ..., index: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., text: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("tenant", "store_ids", "query", "limit", "score_threshold")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STORE_IDS_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    store_ids: _containers.RepeatedScalarFieldContainer[str]
    query: str
    limit: int
    score_threshold: float
    def __init__(self, tenant: _Optional[str] = ..., store_ids: _Optional[_Iterable[str]] = ..., query: _Optional[str] = ..., limit: _Optional[int] = ..., score_threshold: _Optional[float] = ...) -> None: ...

class SearchReply(_message.Message):
    __slots__ = ("chunks", "embedding", "embedding_ms", "retrieval_ms", "by_usage")
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_MS_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_MS_FIELD_NUMBER: _ClassVar[int]
    BY_USAGE_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[Chunk]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    embedding_ms: float
    retrieval_ms: float
    by_usage: bool
    def __init__(self, chunks: _Optional[_Iterable[_Union[Chunk, _Mapping]]] = ..., embedding: _Optional[_Iterable[float]] = ..., embedding_ms: _Optional[float] = ..., retrieval_ms: _Optional[float] = ..., by_usage: _Optional[bool] = ...) -> None: ...
