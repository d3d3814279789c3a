"""Stored responses: shown, their input listed, deleted.

What is stored of a conversation is its session (the turns) and, beside it, its newest response. So that can be shown as
it was; older ones are part of its input.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from actors.base.errors import InvalidArgument, NotFound
from cluster.gateway.bodies import shown
from cluster.gateway.errors import UnknownParameter
from cluster.gateway.responses import named
from cluster.gateway.responses_output import Item
from cluster.gateway.sessions import Sessions
from protos.gen import memory_pb2

MOST_ITEMS = 100


async def read(sessions: Sessions, tenant: str, response_id: str) -> memory_pb2.Session:
    """The session whose newest answer the response is. Raises NotFound."""
    try:
        session_id = named(response_id, "response_id").session_id
    except InvalidArgument as error:
        raise _unknown(response_id, "accepted is the id of a stored one") from error
    session = await sessions.read(tenant, session_id)
    if session is None or not session.response:
        raise _unknown(response_id, "it was not stored, was deleted, or expired")
    newest = json.loads(session.response)["id"]
    if newest != response_id:
        raise _unknown(response_id, f"of its conversation only the newest is, {newest}")
    return session


def input_page(session: memory_pb2.Session, query: Mapping[str, str]) -> dict[str, Any]:
    """GET /v1/responses/{id}/input_items: all that the model read but its instructions, newest first unless asked.

    Raises InvalidArgument naming the parameter.
    """
    for name in query.keys() - {"limit", "order", "after"}:
        raise UnknownParameter(f"unknown parameter: {name[:80]}", param=name[:80])
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST_ITEMS):
        raise InvalidArgument(f"limit is {limit[:40]!r}; accepted is 1 to {MOST_ITEMS}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidArgument(f"order is {order[:40]!r}; accepted are 'asc' and 'desc'", param="order")
    items = _input_items(session)
    if order == "desc":
        items.reverse()
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise InvalidArgument(f"after is {shown(after)}; accepted is the id of an item", param="after")
        items = items[ids.index(after) + 1 :]
    some = items[: int(limit)]
    first, last = (some[0]["id"], some[-1]["id"]) if some else (None, None)
    return {"object": "list", "data": some, "first_id": first, "last_id": last, "has_more": len(items) > len(some)}


def _input_items(session: memory_pb2.Session) -> list[dict[str, Any]]:
    turns = session.turns[:-1]
    begins = 1 if json.loads(session.response)["instructions"] and turns and turns[0].role == "system" else 0
    items: list[dict[str, Any]] = []
    for place, turn in enumerate(turns[begins:], begins):
        items += _items_of(turn, f"{session.session_id}_{place}")
    return items


def _items_of(turn: memory_pb2.Turn, name: str) -> Sequence[dict[str, Any]]:
    if turn.role == "tool":
        result = {"call_id": turn.tool_call_id, "output": turn.content}
        return [{"type": "function_call_output", "id": f"fco_{name}", "status": "completed", **result}]
    items: list[dict[str, Any]] = []
    if turn.role == "assistant":
        if turn.content or not turn.tool_calls:
            items.append(Item(f"msg_{name}", pieces=[turn.content]).body("completed"))
        for index, call in enumerate(turn.tool_calls):
            items.append(Item(f"fc_{name}_{index}", call.id, call.name, [call.arguments]).body("completed"))
        return items
    content = [{"type": "input_text", "text": turn.content}]
    return [{"type": "message", "id": f"msg_{name}", "status": "completed", "role": turn.role, "content": content}]


def _unknown(response_id: str, why: str) -> NotFound:
    return NotFound(f"there is no response {response_id[:80]!r}: {why}", param="response_id")
