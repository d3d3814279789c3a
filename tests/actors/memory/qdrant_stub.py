"""A Qdrant server for tests: the REST calls that Russet makes, answered by the client's own in-memory mode.

It wants an API key where it is given one, can fail so many requests first, and counts what it was asked. Set
QDRANT_URL to run the conformance tests against a real server instead.
"""

import contextlib
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models


@dataclass
class Stub:
    """A running server."""

    url: str = ""
    key: str | None = None
    failures: list[int] = field(default_factory=list)
    """Statuses to answer with, one a request, before it answers in earnest."""
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    seen_keys: set[str | None] = field(default_factory=set)


def _answer(result: Any) -> JSONResponse:
    plain = TypeAdapter(Any).dump_python(result, mode="json", exclude_none=True)
    return JSONResponse({"result": plain, "status": "ok", "time": 0.0})


def application(stub: Stub) -> FastAPI:
    """The routes."""
    app, store, lock = FastAPI(), QdrantClient(":memory:"), threading.Lock()

    @app.middleware("http")
    async def _gate(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        stub.asked.append(f"{request.method} {request.url.path}")
        stub.seen_keys.add(request.headers.get("api-key"))
        if stub.key is not None and request.headers.get("api-key") != stub.key:
            return JSONResponse({"status": {"error": "Must provide an API key"}}, 401)
        if stub.failures:
            status = stub.failures.pop(0)
            return JSONResponse({"status": {"error": "not now"}}, status, {"Retry-After": "1"} if status == 429 else {})
        return await proceed(request)

    @app.get("/collections/{name}/exists")
    def exists(name: str) -> JSONResponse:
        with lock:
            return _answer({"exists": store.collection_exists(name)})

    @app.get("/collections/{name}")
    def info(name: str) -> JSONResponse:
        with lock:
            return _answer(store.get_collection(name))

    @app.put("/collections/{name}")
    def create(name: str, body: models.CreateCollection) -> JSONResponse:
        with lock:
            if store.collection_exists(name):
                return JSONResponse({"status": {"error": f"Collection `{name}` already exists!"}}, 409)
            return _answer(store.create_collection(name, body.vectors, metadata=body.metadata))

    @app.put("/collections/{name}/index")
    def index(name: str, body: models.CreateFieldIndex) -> JSONResponse:
        return _answer({"operation_id": 0, "status": "completed"})

    @app.put("/collections/{name}/points")
    def upsert(name: str, body: models.PointsList) -> JSONResponse:
        with lock:
            return _answer(store.upsert(name, body.points))

    @app.post("/collections/{name}/points")
    def retrieve(name: str, body: models.PointRequest) -> JSONResponse:
        with lock:
            return _answer(store.retrieve(name, body.ids, with_payload=True, with_vectors=bool(body.with_vector)))

    @app.post("/collections/{name}/points/delete")
    def delete(name: str, body: models.PointIdsList) -> JSONResponse:
        with lock:
            return _answer(store.delete(name, body))

    @app.post("/collections/{name}/points/count")
    def count(name: str) -> JSONResponse:
        with lock:
            return _answer(store.count(name))

    @app.post("/collections/{name}/points/scroll")
    def scroll(name: str, body: models.ScrollRequest) -> JSONResponse:
        with lock, warnings.catch_warnings():
            records, following = store.scroll(
                name,
                scroll_filter=body.filter,
                limit=body.limit or 10,
                order_by=body.order_by,
                offset=body.offset,
                with_vectors=bool(body.with_vector),
            )
        return _answer({"points": records, "next_page_offset": following})

    @app.post("/collections/{name}/points/query")
    def query(name: str, body: models.QueryRequest) -> JSONResponse:
        assert isinstance(body.query, models.NearestQuery)
        with lock:
            found = store.query_points(
                name, query=body.query.nearest, using=body.using, query_filter=body.filter, limit=body.limit or 10
            )
        return _answer(found)

    return app


@contextlib.contextmanager
def running(key: str | None = None, certificate: tuple[Path, Path] | None = None) -> Iterator[Stub]:
    """A server on a free port of this machine; over TLS with `certificate` (its file and its key's)."""
    stub = Stub(key=key)
    tls = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]} if certificate else {}
    server = uvicorn.Server(
        uvicorn.Config(application(stub), "127.0.0.1", 0, log_level="warning", lifespan="off", **tls)  # type: ignore[arg-type]
    )
    ready = threading.Event()
    startup = server.startup

    async def start(*args: Any, **more: Any) -> None:
        await startup(*args, **more)
        ready.set()

    server.startup = start  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(30), "the stub did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        stub.url = f"http{'s' if certificate else ''}://localhost:{port}" if certificate else f"http://127.0.0.1:{port}"
        yield stub
    finally:
        server.should_exit = True
        thread.join(10)
