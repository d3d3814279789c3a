"""What servers offer and answer, in types of our own: cluster.tool_runtime.session alone knows the SDK's."""

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Offer:
    """A tool as its server describes it."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments."""
    repeatable: bool = False
    """It says of itself that it changes nothing, and that asking again gives nothing new."""


class Output(NamedTuple):
    """What a tool said."""

    text: str
    ok: bool


class CallFailed(Exception):
    """The tool gave no answer: its server is down, ended, refused, or took too long. The message is for the model."""
