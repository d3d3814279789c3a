"""A small client of Russet's own HTTP API, for the command line. Programs use any OpenAI client instead."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from actors.base.errors import RussetError, Unavailable


class Client:
    """Talks to the gateway at `url` (without /v1). Errors of the server come as RussetError with its message."""

    def __init__(self, url: str, key: str | None = None, tenant: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= {"X-Russet-Tenant": tenant} if tenant else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=httpx.Timeout(10, read=120))

    def chat(
        self, messages: list[dict[str, str]], *, model: str | None, max_tokens: int | None, temperature: float | None
    ) -> Iterator[str]:
        """Text deltas of the answer to `messages`."""
        options = {"model": model or "auto", "max_tokens": max_tokens, "temperature": temperature}
        body: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        body |= {"messages": messages, "stream": True}
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                _check(response)
                for line in response.iter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise RussetError(event["error"]["message"])
                    for choice in event["choices"]:
                        if content := choice["delta"].get("content"):
                            yield content
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def models(self) -> list[dict[str, Any]]:
        """The rows of /v1/models."""
        return self._ask("GET", "/v1/models").json()["data"]

    def sessions(self, limit: int) -> list[dict[str, Any]]:
        """The rows of /v1/russet/sessions, most recent first."""
        return self._ask("GET", f"/v1/russet/sessions?limit={limit}").json()["data"]

    def session(self, session_id: str) -> dict[str, Any]:
        """One session with its messages."""
        return self._ask("GET", f"/v1/russet/sessions/{quote(session_id, safe='')}").json()

    def delete_session(self, session_id: str) -> bool:
        """Forget a session; False where there was none."""
        return self._ask("DELETE", f"/v1/russet/sessions/{quote(session_id, safe='')}").json()["deleted"]

    def tools(self) -> dict[str, Any]:
        """The tools that the server itself can run, and where they come from."""
        return self._ask("GET", "/v1/russet/tools").json()

    def routers(self) -> list[dict[str, Any]]:
        """The named routers, by name."""
        return self._ask("GET", "/v1/routers").json()["data"]

    def train_router(self, name: str, examples: list[dict[str, str | None]], *, add: bool) -> dict[str, Any]:
        """Train a named router on texts and labels, or `add` them to those it has."""
        path = f"/v1/routers/{quote(name, safe='')}"
        asked = ("POST", f"{path}/examples") if add else ("PUT", path)
        return self._ask(*asked, {"examples": examples}, timeout_s=1800).json()

    def delete_router(self, name: str) -> bool:
        """Forget a named router; False where there was none."""
        return self._ask("DELETE", f"/v1/routers/{quote(name, safe='')}").json()["deleted"]

    def classify(self, router: str, text: str) -> dict[str, Any]:
        """Which of a router's labels a text belongs to."""
        return self._ask("POST", "/v1/router/classify", {"router": router, "text": text}).json()

    def explain(self, text: str, model: str, session_id: str) -> dict[str, Any]:
        """How a question would be routed now, and why."""
        asked = {"text": text, "model": model, "session_id": session_id}
        return self._ask("POST", "/v1/router/explain", asked).json()

    def score(self, prompts: list[str]) -> dict[str, Any]:
        """How likely the small model is enough for each prompt."""
        return self._ask("POST", "/v1/router/score", {"prompts": prompts}, timeout_s=600).json()

    def train_cost(self, rows: list[dict[str, Any]], margin: float) -> dict[str, Any]:
        """Train a cost router on strong/weak rows; it serves if the gate lets it."""
        return self._ask("PUT", "/v1/router/cost", {"rows": rows, "margin": margin}, timeout_s=3600).json()

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """Keep a text; its file object."""
        return self._ask("POST", "/v1/files", files={"file": (name, content)}).json()

    def files(self) -> list[dict[str, Any]]:
        """The caller's files, newest first."""
        return self._ask("GET", "/v1/files").json()["data"]

    def delete_file(self, file_id: str) -> None:
        """Forget a file, also in vector stores."""
        self._ask("DELETE", f"/v1/files/{quote(file_id, safe='')}")

    def vector_stores(self) -> list[dict[str, Any]]:
        """The caller's vector stores, newest first."""
        rows: list[dict[str, Any]] = []
        more = True
        while more:
            after = f"&after={rows[-1]['id']}" if rows else ""
            page = self._ask("GET", f"/v1/vector_stores?limit=100{after}").json()
            rows, more = rows + page["data"], page["has_more"]
        return rows

    def create_vector_store(self, name: str) -> dict[str, Any]:
        """Make one."""
        return self._ask("POST", "/v1/vector_stores", {"name": name}).json()

    def delete_vector_store(self, store_id: str) -> None:
        """Forget one; its files stay."""
        self._ask("DELETE", f"/v1/vector_stores/{quote(store_id, safe='')}")

    def attach(self, store_id: str, file_id: str, chunking: dict[str, Any]) -> dict[str, Any]:
        """Begin to put a file into a vector store."""
        body = {"file_id": file_id, "chunking_strategy": chunking}
        return self._ask("POST", f"/v1/vector_stores/{quote(store_id, safe='')}/files", body).json()

    def attached(self, store_id: str, file_id: str) -> dict[str, Any]:
        """What became of it."""
        path = f"/v1/vector_stores/{quote(store_id, safe='')}/files/{quote(file_id, safe='')}"
        return self._ask("GET", path).json()

    def search(self, store_id: str, query: str, limit: int) -> list[dict[str, Any]]:
        """The chunks of a vector store nearest to a text."""
        body = {"query": query, "max_num_results": limit}
        return self._ask("POST", f"/v1/vector_stores/{quote(store_id, safe='')}/search", body).json()["data"]

    def served(self) -> list[dict[str, Any]]:
        """Every model, ready or not, with its replicas."""
        return self._ask("GET", "/v1/russet/models").json()["data"]

    def load_model(self, model: str, name: str, replicas: int, settings: dict[str, Any]) -> dict[str, Any]:
        """Begin to load a model."""
        body = {"model": model, "id": name, "replicas": replicas, "settings": settings}
        return self._ask("POST", "/v1/models", body).json()

    def scale_model(self, name: str, replicas: int) -> dict[str, Any]:
        """Begin to give a model another number of replicas."""
        return self._ask("PATCH", f"/v1/models/{quote(name, safe='')}", {"replicas": replicas}).json()

    def unload_model(self, name: str, timeout_s: float) -> dict[str, Any]:
        """Begin to unload a model."""
        return self._ask("DELETE", f"/v1/models/{quote(name, safe='')}?timeout_s={timeout_s}").json()

    def aliases(self) -> list[dict[str, Any]]:
        """The names that lead to models, with how these do."""
        return self._ask("GET", "/v1/russet/aliases").json()["data"]

    def alias(self, name: str) -> dict[str, Any]:
        """One of them."""
        return self._ask("GET", f"/v1/russet/aliases/{quote(name, safe='')}").json()

    def put_alias(self, name: str, models: dict[str, float], max_failures: float | None) -> dict[str, Any]:
        """Have a name lead to models, by weight."""
        body: dict[str, Any] = {"models": models, "max_failures": max_failures}
        return self._ask("PUT", f"/v1/russet/aliases/{quote(name, safe='')}", body).json()

    def delete_alias(self, name: str) -> bool:
        """Forget an alias; False where there was none."""
        return self._ask("DELETE", f"/v1/russet/aliases/{quote(name, safe='')}").json()["deleted"]

    def witness(self, path: str = "", **query: Any) -> dict[str, Any]:
        """GET /v1/witness/PATH with what of `query` is set."""
        asked = {name: value for name, value in query.items() if value not in (None, "", False)}
        return self._ask("GET", f"/v1/witness{path}?{urlencode(asked)}").json()

    def status(self) -> dict[str, Any]:
        """What runs: /status.json."""
        return self._ask("GET", "/status.json").json()

    def metrics(self) -> str:
        """The text of /metrics."""
        return self._ask("GET", "/metrics").text

    def _ask(
        self, method: str, path: str, body: Any = None, timeout_s: float = 120, files: Any = None
    ) -> httpx.Response:
        try:
            timeout = httpx.Timeout(10, read=timeout_s)
            response = self._http.request(method, path, json=body, files=files, timeout=timeout)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        _check(response)
        return response

    def _unreachable(self, error: httpx.TransportError) -> Unavailable:
        return Unavailable(f"no answer from {self.url} ({error}); is Russet up? `russet status` tells")


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    raise RussetError(f"{response.status_code}: {message}")
