"""Log lines: as text for people, or a JSON object each for programs; either names the request that it is of."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from opentelemetry import trace

from actors.base.telemetry import REQUEST

Form = Literal["text", "json"]
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class TextLines(logging.Formatter):
    """`time level logger: message`, and the request's id behind it."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows it."""
        request = REQUEST.get()
        return super().formatMessage(record) + (f" [{request}]" if request else "")


class JsonLines(logging.Formatter):
    """An object a line: time, level, logger, message, pid; request_id, trace_id, span_id and error where they are.

    The ids are those of the request in whose course the line was written, in every process that takes part in it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        span = trace.get_current_span().get_span_context()
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            "request_id": REQUEST.get() or None,
            "trace_id": trace.format_trace_id(span.trace_id) if span.is_valid else None,
            "span_id": trace.format_span_id(span.span_id) if span.is_valid else None,
            "error": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)


def lines_of(form: Form) -> logging.Formatter:
    """What writes them."""
    return JsonLines() if form == "json" else TextLines()


def as_asked(form: Form) -> None:
    """Have this process write its lines so. JSON goes to stderr, from INFO on, where nobody said where to write."""
    root = logging.getLogger()
    if not root.handlers:
        if form == "text":
            return  # Python's own way, warnings to stderr: what Ray's files have had all along
        # Not sys.stderr: Ray Serve puts something in its place that writes each line into a line of Serve's own.
        root.addHandler(logging.StreamHandler(sys.__stderr__))
        root.setLevel(logging.INFO)
    for handler in root.handlers:
        handler.setFormatter(lines_of(form))
