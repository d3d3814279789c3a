"""HTTP of files and vector stores. Who calls sees its tenant's alone."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from actors.base.errors import NotFound
from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Handler, Reply
from cluster.gateway.bodies import parse
from cluster.gateway.caller import Caller
from cluster.gateway.documents import bodies
from cluster.gateway.documents.shapes import attached_row, file_row, found_page, page, store_row
from cluster.gateway.documents.uploads import upload_of
from protos.gen import documents_pb2
from protos.gen.documents_pb2_grpc import DocumentsStub

TIMEOUT_S = 30.0
STORES_DEFAULT, STORES_MOST = 20, 100
FILES_DEFAULT = FILES_MOST = 10_000


class Documents:
    """The handlers."""

    def __init__(self, stub: DocumentsStub) -> None:
        self._stub = stub

    def routes(self, route: Callable[[str, str, Handler], Route]) -> list[Route]:
        """Where they are reached; `route` makes one of path, method and handler."""
        return [
            route("/v1/files", "POST", self.upload),
            route("/v1/files", "GET", self.list_files),
            route("/v1/files/{file}", "GET", self.get_file),
            route("/v1/files/{file}", "DELETE", self.delete_file),
            route("/v1/files/{file}/content", "GET", self.read_file),
            route("/v1/vector_stores", "POST", self.create),
            route("/v1/vector_stores", "GET", self.list_stores),
            route("/v1/vector_stores/{store}", "GET", self.get_store),
            route("/v1/vector_stores/{store}", "POST", self.change),
            route("/v1/vector_stores/{store}", "DELETE", self.delete_store),
            route("/v1/vector_stores/{store}/files", "POST", self.attach),
            route("/v1/vector_stores/{store}/files", "GET", self.list_attached),
            route("/v1/vector_stores/{store}/files/{file}", "GET", self.get_attached),
            route("/v1/vector_stores/{store}/files/{file}", "DELETE", self.detach),
            route("/v1/vector_stores/{store}/search", "POST", self.search),
        ]

    async def upload(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/files."""
        message = await upload_of(request, body)
        message.tenant = caller.tenant
        return _reply(file_row(await self._stub.PutFile(message, timeout=TIMEOUT_S)))

    async def list_files(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/files."""
        reply = await self._stub.ListFiles(documents_pb2.ListRequest(tenant=caller.tenant), timeout=TIMEOUT_S)
        rows = [file_row(file) for file in reply.files]
        return _reply(page(rows, request.query_params, FILES_DEFAULT, FILES_MOST, {"purpose": "purpose"}))

    async def get_file(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/files/{file}."""
        return _reply(file_row(await self._stub.GetFile(_file(request, caller), timeout=TIMEOUT_S)))

    async def read_file(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/files/{file}/content."""
        reply = await self._stub.ReadFile(_file(request, caller), timeout=TIMEOUT_S)
        return Reply(reply.content, kind=b"text/plain; charset=utf-8")

    async def delete_file(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/files/{file}."""
        message = _file(request, caller)
        reply = await self._stub.DeleteFile(message, timeout=TIMEOUT_S)
        if not reply.found:
            raise NotFound(f"there is no file {message.file_id[:80]!r}", param="file_id")
        return _reply({"id": message.file_id, "object": "file", "deleted": True})

    async def create(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/vector_stores."""
        parsed = parse(body, bodies.StoreBody, bodies.UNSUPPORTED_STORE)
        message = bodies.store_request(parsed)
        message.tenant = caller.tenant
        for file_id in parsed.file_ids or ():  # One that is missing must not leave a store behind.
            asked = documents_pb2.FileRequest(tenant=caller.tenant, file_id=file_id)
            await self._stub.GetFile(asked, timeout=TIMEOUT_S)
        store = await self._stub.PutStore(message, timeout=TIMEOUT_S)
        for file_id in parsed.file_ids or ():
            attach = documents_pb2.AttachRequest(
                tenant=caller.tenant,
                store_id=store.id,
                file_id=file_id,
                chunking=bodies.chunking_of(parsed.chunking_strategy),
            )
            await self._stub.Attach(attach, timeout=TIMEOUT_S)
        asked = documents_pb2.StoreRequest(tenant=caller.tenant, store_id=store.id)
        return _reply(store_row(await self._stub.GetStore(asked, timeout=TIMEOUT_S)))

    async def change(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/vector_stores/{store}."""
        parsed = parse(body, bodies.StoreChangeBody, bodies.UNSUPPORTED_CHANGE)
        before = await self._stub.GetStore(_store(request, caller), timeout=TIMEOUT_S)
        message = bodies.change_request(parsed, before)
        message.tenant = caller.tenant
        return _reply(store_row(await self._stub.PutStore(message, timeout=TIMEOUT_S)))

    async def list_stores(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/vector_stores."""
        reply = await self._stub.ListStores(documents_pb2.ListRequest(tenant=caller.tenant), timeout=TIMEOUT_S)
        rows = [store_row(store) for store in reply.stores]
        return _reply(page(rows, request.query_params, STORES_DEFAULT, STORES_MOST, {}))

    async def get_store(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/vector_stores/{store}."""
        return _reply(store_row(await self._stub.GetStore(_store(request, caller), timeout=TIMEOUT_S)))

    async def delete_store(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/vector_stores/{store}."""
        message = _store(request, caller)
        reply = await self._stub.DeleteStore(message, timeout=TIMEOUT_S)
        if not reply.found:
            raise NotFound(f"there is no vector store {message.store_id[:80]!r}", param="vector_store_id")
        return _reply({"id": message.store_id, "object": "vector_store.deleted", "deleted": True})

    async def attach(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/vector_stores/{store}/files."""
        message = bodies.attach_request(parse(body, bodies.AttachBody, bodies.UNSUPPORTED_ATTACH))
        message.tenant, message.store_id = caller.tenant, request.path_params["store"]
        return _reply(attached_row(await self._stub.Attach(message, timeout=TIMEOUT_S)))

    async def list_attached(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/vector_stores/{store}/files."""
        reply = await self._stub.ListAttached(_store(request, caller), timeout=TIMEOUT_S)
        rows = [attached_row(card) for card in reply.files]
        return _reply(page(rows, request.query_params, STORES_DEFAULT, STORES_MOST, {"filter": "status"}))

    async def get_attached(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/vector_stores/{store}/files/{file}."""
        return _reply(attached_row(await self._stub.GetAttached(_attached(request, caller), timeout=TIMEOUT_S)))

    async def detach(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/vector_stores/{store}/files/{file}."""
        message = _attached(request, caller)
        reply = await self._stub.Detach(message, timeout=TIMEOUT_S)
        if not reply.found:
            raise NotFound(
                f"vector store {message.store_id[:80]!r} has no file {message.file_id[:80]!r}", param="file_id"
            )
        return _reply({"id": message.file_id, "object": "vector_store.file.deleted", "deleted": True})

    async def search(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/vector_stores/{store}/search."""
        message = bodies.search_request(parse(body, bodies.SearchBody, bodies.UNSUPPORTED_SEARCH))
        message.tenant = caller.tenant
        message.store_ids.append(request.path_params["store"])
        return _reply(found_page(message.query, await self._stub.Search(message, timeout=TIMEOUT_S)))


def _reply(value: dict[str, Any]) -> Reply:
    return Reply(dumps(value))


def _file(request: Request, caller: Caller) -> documents_pb2.FileRequest:
    return documents_pb2.FileRequest(tenant=caller.tenant, file_id=request.path_params["file"])


def _store(request: Request, caller: Caller) -> documents_pb2.StoreRequest:
    return documents_pb2.StoreRequest(tenant=caller.tenant, store_id=request.path_params["store"])


def _attached(request: Request, caller: Caller) -> documents_pb2.AttachedRequest:
    params = request.path_params
    return documents_pb2.AttachedRequest(tenant=caller.tenant, store_id=params["store"], file_id=params["file"])
