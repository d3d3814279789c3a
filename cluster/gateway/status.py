"""GET /status and /status.json: what runs, for people with a browser and for programs."""

import asyncio
from collections.abc import Callable
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.routing import Route

from actors.base.errors import NotFound
from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Reply
from cluster.gateway.auth import check_admin
from cluster.gateway.caller import Caller
from cluster.gateway.config import GatewayConfig
from cluster.gateway.routes import Routes
from cluster.view.look import Published
from cluster.view.status import status
from cluster.view.watch import Watch

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The page loads what this gateway serves, and nothing else; no script or style stands in it."""
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)
FILES = {
    "index.html": b"text/html; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "page.css": b"text/css; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}
"""Of the page, and their types. The first is served at /status, the others below it."""
PAGE = "index.html"


class Status:
    """The handlers, and the watch behind them."""

    def __init__(self, config: GatewayConfig, routes: Routes, published: Published | None) -> None:
        """`published` tells which services there are; without it the page knows only what the router's table tells."""
        self._keyed = config.api_keys_file is not None
        self._routes = routes
        self.watch = Watch(published or _nobody)

    def routes(self, route: Callable[..., Route]) -> list[Route]:
        """Where they are reached; `route` makes one of path, method and handler. The page holds no data: no key."""
        return [
            route("/status.json", "GET", self.status),
            route("/status", "GET", self.page, keyed=False),
            route("/status/{file}", "GET", self.file, keyed=False),
        ]

    async def status(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /status.json. Where the gateway has keys it is for administrators: it tells of nodes and addresses."""
        if self._keyed:
            check_admin(caller)
        _, table = await asyncio.gather(self.watch.look(), self._routes.refresh())
        return Reply(dumps(status(self.watch, table)), headers=[(b"cache-control", b"no-store")])

    async def page(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /status."""
        return Reply(_file(PAGE), headers=HEADERS, kind=FILES[PAGE])

    async def file(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /status/{file}. Raises NotFound for what is no part of the page."""
        name = request.path_params["file"]
        if name not in FILES:
            raise NotFound(f"there is no /status/{name[:80]}; accepted are {', '.join(FILES)}")
        return Reply(_file(name), headers=HEADERS, kind=FILES[name])


@cache
def _file(name: str) -> bytes:
    return (files("cluster.view") / "page" / name).read_bytes()


async def _nobody() -> dict[str, list[str]]:
    return {}
