"""The scaffold that parsers share: text, then a group of calls, then perhaps more of either.

I will look.  <tool_call>{"name": ...}</tool_call>  \\n  <tool_call>{"name": ...}</tool_call>
|-- Text --|  | marker ||------- group ----------|  |   | marker ||------- group ----------|
                                                    white space beside groups is no text
"""

from collections.abc import Callable
from typing import Protocol

from cluster.gateway.tools.events import Event, Text, call, joined
from cluster.gateway.tools.json_call import CallObject, Written

SPACE = " \t\r\n"


class Group(Protocol):
    """Reads one group of calls, from after its marker on."""

    done: bool
    failed: bool
    """What was read is no group of calls."""
    events: list[Event]
    """Of calls that are certain whatever follows. Whoever reads them takes them away."""
    left: str
    """What was read and is in no call that was told of."""
    told: bool
    """Whether a call was told of."""

    def feed(self, text: str, at: int) -> int:
        """Read from `at` on, up to the group's end or to where it shows that it is none; the place after that."""
        ...

    def cut(self) -> None:
        """The answer ended: tell of what can be taken as whole."""
        ...


class GroupParser:
    """A Parser. Groups begin with a marker or, beside another and where the answer begins, with a character."""

    def __init__(self, marker: str, openings: str, group: Callable[[], Group], between: str = SPACE) -> None:
        """`openings`: characters with which a group may begin. `between`: those that stand beside groups."""
        self._marker, self._openings, self._make, self._between = marker, openings, group, between
        self._group: Group | None = None
        self._before = ""
        """What stands before the group: characters of `between` and the marker."""
        self._held = ""
        """Outside of groups: what may become a marker."""
        self._space: list[str] = []
        """Characters of `between` that are no text where a group follows, or the answer's end after one."""
        self._beside = True
        """Whether no text came since the answer began, or since the last group."""
        self._called = False

    def feed(self, text: str) -> list[Event]:
        """See Parser."""
        events: list[Event] = []
        text, self._held, at = self._held + text, "", 0
        while at < len(text):
            at = self._outside(text, at, events) if self._group is None else self._within(self._group, text, at, events)
        return joined(events)

    def flush(self) -> list[Event]:
        """See Parser."""
        events: list[Event] = []
        if self._group is not None:
            self._group.cut()
            self._leave(self._group, events)
        elif self._held or not self._called:
            events.append(Text(self._spaced(self._held)))
        self._held = ""
        return joined(events)

    def _outside(self, text: str, at: int, events: list[Event]) -> int:
        if self._beside:
            start = len(text) - len(text[at:].lstrip(self._between))
            self._space.append(text[at:start])
            at = start
            if at == len(text):
                return at
            if text[at] in self._openings:
                return self._enter("", at)
        marked = text.find(self._marker, at)
        if self._beside and marked == at:
            return self._enter(self._marker, at + len(self._marker))
        certain = marked if marked >= 0 else len(text) - self._partial(text[at:])
        if certain > at:
            events.append(Text(self._spaced(text[at:certain])))
            self._beside = False
        if marked >= 0:
            return self._enter(self._marker, marked + len(self._marker))
        self._held = text[certain:]
        return len(text)

    def _spaced(self, text: str) -> str:
        """The text after the space that was held back."""
        spaced, self._space = "".join([*self._space, text]), []
        return spaced

    def _partial(self, text: str) -> int:
        """Length of the longest end of the text with which the marker begins."""
        lengths = range(min(len(text), len(self._marker) - 1), 0, -1)
        return next((length for length in lengths if self._marker.startswith(text[-length:])), 0)

    def _enter(self, marker: str, at: int) -> int:
        self._group, self._before = self._make(), self._spaced(marker)
        return at

    def _within(self, group: Group, text: str, at: int, events: list[Event]) -> int:
        at = group.feed(text, at)
        if group.done or group.failed:
            self._leave(group, events)
        elif group.events:
            events += group.events
            group.events = []
        return at

    def _leave(self, group: Group, events: list[Event]) -> None:
        events += group.events
        self._called |= group.told
        self._beside = group.told and not group.left
        events.append(Text(group.left if group.told else self._before + group.left))
        self._group = None


class JsonGroup:
    """One call's object, or a list of them, then what closes the group."""

    def __init__(self, names: frozenset[str], close: str, *, certain: bool) -> None:
        """`certain`: as in CallObject. Otherwise calls are told of once the group is whole."""
        self._names, self._close, self._certain = names, close, certain
        self.done = self.failed = self.told = False
        self.events: list[Event] = []
        self.left = ""
        self._calls: list[Written] = []
        self._object: CallObject | None = None
        self._list = False
        self._wants = "{["
        """Characters that may come next, but for space; empty where it is the rest of what closes the group."""
        self._closed = 0
        """How much of that was read."""

    def feed(self, text: str, at: int) -> int:
        """See Group."""
        while at < len(text) and not (self.done or self.failed):
            at = self._mark(text, at) if self._object is None else self._within(self._object, text, at)
        return at

    def cut(self) -> None:
        """See Group: what closes it may be missing."""
        if not self._wants and self._object is None:
            self._end()
        elif self.told:
            self.left = "" if self._object is None or self._object.begun else self._object.raw

    def _within(self, written: CallObject, text: str, at: int) -> int:
        end = written.feed(text, at)
        self.left += text[at:end]
        if written.begun:
            self._tell(written.events)
            written.events = []
        if written.done:
            self._object = None
            self._wants = ",]" if self._list else ""
            if not written.begun:
                self._take(written.ended())
            if not self._wants and not self._close and not self.failed:
                self._end()
        return end

    def _take(self, found: Written | None) -> None:
        if found is None:
            self.failed = True
        elif self._certain:
            self._tell(call(*found))
        else:
            self._calls.append(found)

    def _tell(self, events: list[Event]) -> None:
        self.events += events
        self.told, self.left = True, ""

    def _mark(self, text: str, at: int) -> int:
        """One character outside of objects."""
        character = text[at]
        if character in SPACE and not self._closed:
            pass
        elif not self._wants:
            if character != self._close[self._closed]:
                self.failed = True
                return at
            self._closed += 1
        elif character not in self._wants:
            self.failed = True
            return at
        elif character == "{":
            self._object = CallObject(self._names, certain=self._certain)
            return at
        else:
            self._list = True
            self._wants = "" if character == "]" else "{"
        self.left += character
        if not self._wants and self._closed == len(self._close):
            self._end()
        return at + 1

    def _end(self) -> None:
        for found in self._calls:
            self._tell(call(*found))
        self.done, self.left = True, ""
