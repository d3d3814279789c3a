"""Models loaded, scaled and unloaded while others are served, for administrators: over HTTP, and the same over gRPC."""

import json
from collections.abc import Callable
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.routing import Route

from actors.base.errors import InvalidArgument, Unavailable
from cluster.controller import Controller
from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Handler, Reply
from cluster.gateway.audit import Audit
from cluster.gateway.auth import check_admin
from cluster.gateway.bodies import Body, parse
from cluster.gateway.caller import Caller
from protos.gen import inference_pb2


class LoadBody(Body):
    """Of POST /v1/models."""

    model: str = Field(min_length=1, max_length=4096)
    id: str = Field("", max_length=128)
    replicas: int = Field(1, ge=1, le=64)
    settings: dict[str, Any] = Field(default_factory=dict)


class ScaleBody(Body):
    """Of PATCH /v1/models/{model}."""

    replicas: int = Field(ge=1, le=64)


class Loading:
    """Asks the cluster's controller. Each method raises PermissionDenied for callers that are no administrators."""

    def __init__(self, controller: Controller | None, audit: Audit) -> None:
        """None: there is nobody to ask."""
        self._asked = controller
        self._audit = audit

    def _controller(self, caller: Caller) -> Controller:
        check_admin(caller)
        if self._asked is None:
            raise Unavailable("this gateway was started without what loads models")
        return self._asked

    async def listed(self, caller: Caller) -> list[inference_pb2.ServedModel]:
        """All, with how far they are."""
        return await self._controller(caller).listed()

    async def load(self, caller: Caller, request: inference_pb2.LoadModelRequest) -> inference_pb2.ServedModel:
        """Begin to load one."""
        doing = self._controller(caller).load(request)
        return await self._audit.told(caller, "model.load", request.id or request.model, doing)

    async def scale(self, caller: Caller, request: inference_pb2.ScaleModelRequest) -> inference_pb2.ServedModel:
        """Give it another number of replicas."""
        doing = self._controller(caller).scale(request.id, request.replicas)
        return await self._audit.told(caller, "model.scale", request.id, doing)

    async def unload(self, caller: Caller, request: inference_pb2.UnloadModelRequest) -> inference_pb2.ServedModel:
        """Begin to unload it."""
        doing = self._controller(caller).unload(request.id, request.timeout_s)
        return await self._audit.told(caller, "model.unload", request.id, doing)

    def routes(self, route: Callable[[str, str, Handler], Route]) -> list[Route]:
        """Where they are reached; `route` makes one of path, method and handler."""
        return [
            route("/v1/russet/models", "GET", self.http_list),
            route("/v1/models", "POST", self.http_load),
            route("/v1/models/{model:path}", "PATCH", self.http_scale),
            route("/v1/models/{model:path}", "DELETE", self.http_unload),
        ]

    async def http_list(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/russet/models."""
        return Reply(dumps({"object": "list", "data": [served_row(each) for each in await self.listed(caller)]}))

    async def http_load(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/models."""
        return Reply(dumps(served_row(await self.load(caller, load_message(parse(body, LoadBody))))), status=202)

    async def http_scale(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """PATCH /v1/models/{model}."""
        asked = parse(body, ScaleBody)
        message = inference_pb2.ScaleModelRequest(id=request.path_params["model"], replicas=asked.replicas)
        return Reply(dumps(served_row(await self.scale(caller, message))), status=202)

    async def http_unload(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/models/{model}?timeout_s=N."""
        given = request.query_params.get("timeout_s", "0")
        try:
            timeout_s = float(given)
        except ValueError:
            raise InvalidArgument(f"timeout_s is {given[:40]!r}; accepted are seconds", param="timeout_s") from None
        message = inference_pb2.UnloadModelRequest(id=request.path_params["model"], timeout_s=timeout_s)
        return Reply(dumps(served_row(await self.unload(caller, message)) | {"deleted": True}))


def load_message(asked: LoadBody) -> inference_pb2.LoadModelRequest:
    """The body as the controller reads it."""
    return inference_pb2.LoadModelRequest(
        model=asked.model, id=asked.id, replicas=asked.replicas, settings=json.dumps(asked.settings)
    )


def served_row(served: inference_pb2.ServedModel) -> dict[str, Any]:
    """A model and its replicas, as JSON has it."""
    replicas = [
        {
            "id": replica.id,
            "state": replica.state,
            "reason": replica.reason or None,
            "pid": replica.pid or None,
            "bytes": replica.bytes,
            "resident_bytes": replica.resident_bytes or None,
            "since_s": round(replica.since_s, 1),
            "node": replica.node or None,
        }
        for replica in served.replicas
    ]
    return {
        "id": served.id,
        "object": "model",
        "model": served.model,
        "source": served.source,
        "state": served.state,
        "replicas": replicas,
    }
