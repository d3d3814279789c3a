"""An answer's text as what a client is told: text, and deltas of tool calls."""

import secrets
from collections.abc import Iterable

from cluster.gateway.tools.events import Arguments, Begun, Ended, Event, Parser, Text
from protos.gen import inference_pb2

Delta = str | inference_pb2.ToolCallDelta
"""Text, never empty, or what is added to a call."""


class CallReader:
    """Reads one answer. The deltas put together are `calls`, however the text was cut."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self.calls: list[inference_pb2.ToolCall] = []
        """As far as they were read."""
        self.whole = 0
        """How many of them are complete; only the last may not be."""

    def push(self, text: str) -> list[Delta]:
        """What became certain with `text`."""
        return self._deltas(self._parser.feed(text)) if text else []

    def finish(self) -> list[Delta]:
        """The rest."""
        return self._deltas(self._parser.flush())

    def _deltas(self, events: Iterable[Event]) -> list[Delta]:
        deltas: list[Delta] = []
        for event in events:
            match event:
                case Text(text):
                    deltas.append(text)
                case Begun(name):
                    call_id = f"call_{secrets.token_hex(12)}"
                    self.calls.append(inference_pb2.ToolCall(id=call_id, name=name))
                    deltas.append(inference_pb2.ToolCallDelta(index=len(self.calls) - 1, id=call_id, name=name))
                case Arguments(text):
                    self.calls[-1].arguments += text
                    deltas.append(inference_pb2.ToolCallDelta(index=len(self.calls) - 1, arguments=text))
                case Ended():
                    self.whole += 1
        return deltas
