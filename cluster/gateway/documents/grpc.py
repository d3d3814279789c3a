"""gRPC of files and vector stores: documents.proto's service, under the caller's tenant."""

from collections.abc import Awaitable, Callable
from typing import Any

from cluster.gateway.caller import Caller
from protos.gen import documents_pb2, documents_pb2_grpc
from protos.gen.documents_pb2_grpc import DocumentsStub

TIMEOUT_S = 30.0
Admit = Callable[[Any, Any], Awaitable[Caller]]
"""A request and its context to who asks; raises Unauthenticated, TooLarge or RateLimited."""


class DocumentsService(documents_pb2_grpc.DocumentsServicer):
    """Every method is memory's, asked for the caller's tenant whatever the request says."""

    def __init__(self, stub: DocumentsStub, admit: Admit) -> None:
        self._admit = admit
        for name in documents_pb2.DESCRIPTOR.services_by_name["Documents"].methods_by_name:
            setattr(self, name, self._passed_on(getattr(stub, name)))

    def _passed_on(self, method: Callable[..., Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def ask(request: Any, context: Any) -> Any:
            own = type(request)()
            own.CopyFrom(request)
            own.tenant = (await self._admit(request, context)).tenant
            return await method(own, timeout=TIMEOUT_S)

        return ask
