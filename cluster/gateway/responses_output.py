"""A response of OpenAI's Responses API as it comes: its output items, whole or as the vendor's events."""

import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from cluster.gateway.answer_stream import AnswerStream
from cluster.gateway.answers import dumps, extension
from cluster.gateway.responses_search import SearchCall, search_events
from cluster.gateway.tools.reader import Delta
from protos.gen import inference_pb2


@dataclass
class Item:
    """One item of the output: a message, where `call_id` is set the call of a function, or the search before them."""

    id: str
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    search: SearchCall | None = None
    """Of a message: the one whose passages it may cite. Of the item that has its id: the search itself."""

    @property
    def is_search(self) -> bool:
        """Whether it is the search."""
        return self.search is not None and self.search.id == self.id

    @property
    def is_message(self) -> bool:
        """Whether it is a message."""
        return not self.call_id and not self.is_search

    @property
    def text(self) -> str:
        """Of a message its text, of a call its arguments."""
        return "".join(self.pieces)

    def body(self, status: str) -> dict[str, Any]:
        """As it stands."""
        if self.search is not None and self.is_search:
            return self.search.body(status)
        if self.call_id:
            call = {"call_id": self.call_id, "name": self.name, "arguments": self.text}
            return {"type": "function_call", "id": self.id, "status": status, **call}
        content = [] if status == "in_progress" else [self.part()]
        return {"type": "message", "id": self.id, "status": status, "role": "assistant", "content": content}

    def part(self) -> dict[str, Any]:
        """A message's one part."""
        return text_part(self.text, self.search.annotations(self.text) if self.search is not None else ())


def text_part(text: str, annotations: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": []}


class Writer:
    """Writes one response, whole or as events."""

    def __init__(
        self,
        generation: AnswerStream,
        asked: dict[str, Any],
        check: Callable[[AnswerStream], None] = lambda _: None,
        search: SearchCall | None = None,
    ) -> None:
        """`asked`: what of the request the response repeats. `check`: called once the generation has begun.

        search: the one that its tools asked for, to be told of.
        """
        self._generation = generation
        self._asked = asked
        self._check = check
        self._search = search
        self._items: list[Item] = [] if search is None else [Item(search.id, search=search)]
        self._first_message = self._message()
        """The one where nothing is said."""
        self._sequence = 0
        generation.note = lambda: dumps(self._ended()).decode()

    async def whole(self) -> bytes:
        """The answer in one piece."""
        async with aclosing(self._checked()) as deltas:
            async for delta in deltas:
                self._take(delta)
        return dumps(self._ended())

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as it comes. The first item is the opening and the output's beginning."""
        async with aclosing(self._checked()) as deltas:
            first = await anext(deltas, "")
            begun = self._response("in_progress", [])
            opening = self._event("response.created", response=begun)
            opening += self._event("response.in_progress", response=begun)
            yield opening + b"".join([*self._searched(), *self._told(first)])
            async for delta in deltas:
                yield b"".join(self._told(delta))
        ended = self._ended()
        closing = b"".join(self._closed(ended["output"][-1]["status"]))
        yield closing + self._event(f"response.{ended['status']}", response=ended)

    def _message(self) -> Item:
        """A message that is still empty."""
        return Item(f"msg_{secrets.token_hex(12)}", search=self._search)

    async def _checked(self) -> AsyncGenerator[Delta, None]:
        async with aclosing(self._generation.deltas()) as deltas:
            first = True
            async for delta in deltas:
                if first:
                    self._begun()
                    first = False
                yield delta
            if first:
                self._begun()

    def _begun(self) -> None:
        self._check(self._generation)
        if self._search is not None and self._generation.retrieval is not None:
            self._search.passages = self._generation.retrieval.citations

    def _take(self, delta: Delta) -> bool:
        """Add a delta to the output; whether it began an item."""
        current = self._items[-1] if self._items else None
        if isinstance(delta, str):
            begins = current is None or not current.is_message
            if begins:
                said = any(item.is_message for item in self._items)
                self._items.append(self._message() if said else self._first_message)
            self._items[-1].pieces.append(delta)
            return begins
        begins = bool(delta.id)
        if begins:
            self._items.append(Item(f"fc_{secrets.token_hex(12)}", delta.id, delta.name))
        self._items[-1].pieces.append(delta.arguments)
        return begins

    def _told(self, delta: Delta) -> Iterator[bytes]:
        """Take a delta and tell of it; an empty text begins a message of which nothing is known yet."""
        before = len(self._items)
        if self._take(delta):
            if before and not self._items[before - 1].is_search:
                yield from self._closed("completed", before - 1)
            item = self._items[-1]
            began = Item(item.id, item.call_id, item.name).body("in_progress")
            yield self._event("response.output_item.added", output_index=before, item=began)
            if not item.call_id:
                yield self._event("response.content_part.added", **self._place(), content_index=0, part=text_part(""))
        if isinstance(delta, str):
            if delta:
                yield self._event(
                    "response.output_text.delta", **self._place(), content_index=0, delta=delta, logprobs=[]
                )
        elif delta.arguments:
            yield self._event("response.function_call_arguments.delta", **self._place(), delta=delta.arguments)

    def _searched(self) -> Iterator[bytes]:
        """Tell of the search, which is done before the answer begins."""
        if self._search is None:
            return
        yield self._event("response.output_item.added", output_index=0, item=self._search.body("in_progress"))
        for kind in search_events():
            yield self._event(kind, **self._place(0))
        yield self._event("response.output_item.done", output_index=0, item=self._search.body("completed"))

    def _closed(self, status: str, index: int = -1) -> Iterator[bytes]:
        """An item is whole."""
        item, place = self._items[index], self._place(index)
        if item.call_id:
            yield self._event("response.function_call_arguments.done", **place, name=item.name, arguments=item.text)
        else:
            part = item.part()
            for index, annotation in enumerate(part["annotations"]):
                told = {"content_index": 0, "annotation_index": index, "annotation": annotation}
                yield self._event("response.output_text.annotation.added", **place, **told)
            yield self._event("response.output_text.done", **place, content_index=0, text=item.text, logprobs=[])
            yield self._event("response.content_part.done", **place, content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=place["output_index"], item=item.body(status))

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = dumps({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def _place(self, index: int = -1) -> dict[str, Any]:
        index %= len(self._items)
        return {"item_id": self._items[index].id, "output_index": index}

    def _ended(self) -> dict[str, Any]:
        """The response at its end."""
        said = any(not item.is_search for item in self._items)
        items = self._items if said else [*self._items, self._first_message]
        cut = self._generation.finish == inference_pb2.FINISH_LENGTH
        status = "incomplete" if cut else "completed"
        output = [item.body("completed") for item in items[:-1]] + [items[-1].body(status)]
        response = self._response(status, output)
        counts = self._generation.usage
        response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        response["usage"] = {
            "input_tokens": counts.prompt_tokens,
            "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": counts.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        }
        return response

    def _response(self, status: str, output: Sequence[dict[str, Any]]) -> dict[str, Any]:
        generation = self._generation
        return {
            "id": f"{generation.session_id}.{generation.turns}" if generation.session_id else generation.id,
            "object": "response",
            "created_at": generation.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            **self._asked,
            "model": generation.model,
            "output": output,
            "truncation": "disabled",
            "usage": None,
            "russet": extension(generation),
        }
