"""What a parser finds in a model's text."""

from typing import NamedTuple, Protocol


class Text(NamedTuple):
    """Text that is no part of a call."""

    text: str


class Begun(NamedTuple):
    """A call of a tool that there is."""

    name: str


class Arguments(NamedTuple):
    """More of the call's arguments, JSON as the model wrote it."""

    text: str


class Ended(NamedTuple):
    """The call is whole: its arguments are a JSON object."""


Event = Text | Begun | Arguments | Ended


class Parser(Protocol):
    """Reads one answer. What it finds does not depend on how the text is cut into pieces.

    Every character is part of a call that was found, or white space beside one, or told of as Text, in order.
    """

    def feed(self, text: str) -> list[Event]:
        """What became certain with `text`."""
        ...

    def flush(self) -> list[Event]:
        """The rest: the answer ended."""
        ...


def call(name: str, arguments: str) -> list[Event]:
    """A whole call."""
    return [Begun(name), Arguments(arguments), Ended()]


def joined(events: list[Event]) -> list[Event]:
    """The same with neighbouring texts, and neighbouring arguments, as one; empty ones left out."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, Text | Arguments):
            if not event.text:
                continue
            if type(last) is type(event):
                merged[-1] = event._replace(text=last.text + event.text)  # type: ignore[union-attr]
                continue
        merged.append(event)
    return merged
