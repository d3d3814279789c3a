"""A conversation to a prompt, by the model's own chat template.

A template is code that came with a model file. It runs in Jinja's sandbox, cannot change what it is given, and is
bounded in time and in size of text; what goes wrong in it is refused with the template's own words.
The names a template may use are those of transformers' apply_chat_template.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary

CLOCK_EVERY = 256
"""Loop rounds and calls between two looks at the clock."""


class ChatTemplate:
    """A model's compiled chat template. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary, *, timeout_s: float, max_chars: int) -> None:
        """Raises InvalidArgument where the model has no template, or one that is no Jinja."""
        if not vocabulary.chat_template:
            raise InvalidArgument(
                "this model has no chat template; use /v1/completions (Complete), or a model tuned for chat",
                param="model",
            )
        self.source = vocabulary.chat_template
        self._timeout_s = timeout_s
        self._max_chars = max_chars
        self._names = {
            "bos_token": _text(vocabulary, vocabulary.bos_id),
            "eos_token": _text(vocabulary, next(iter(vocabulary.message.eos_ids), None)),
            "add_generation_prompt": True,
            "documents": None,
        }
        try:
            self._template = _SANDBOX.from_string(_bounded(_SANDBOX.parse(vocabulary.chat_template)))
        except TemplateError as error:
            raise InvalidArgument(f"the model's chat template is no Jinja: {error.message}", param="model") from error

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt that asks for the assistant's answer to `messages`: each with role and content, perhaps name,
        tool_calls and tool_call_id. `tools` are OpenAI's objects; None: there are none.

        Raises InvalidArgument with the template's message where it refuses, fails, or exceeds its bounds.
        """
        budget = _Budget(time.monotonic() + self._timeout_s, self._max_chars)
        token = _BUDGET.set(budget)
        length, pieces = 0, []
        # SmolLM3's template calls tools xml_tools.
        names = {**self._names, "tools": tools} | ({"xml_tools": tools} if tools is not None else {})
        try:
            for piece in self._template.generate(messages=messages, **names):
                length += len(piece)
                budget.check_length(length)
                pieces.append(piece)
        except TemplateError as error:
            raise InvalidArgument(f"the model's chat template refused: {error.message}", param="messages") from error
        except Exception as error:  # whatever a template's code can raise
            reason = f"{type(error).__name__}: {error}"
            raise InvalidArgument(f"the model's chat template failed: {reason}", param="messages") from error
        finally:
            _BUDGET.reset(token)
        return "".join(pieces)


def _text(vocabulary: Vocabulary, token: int | None) -> str:
    return "" if token is None else vocabulary.token_bytes(token).decode("utf-8", "replace")


class _Budget:
    """What one rendering may still spend."""

    def __init__(self, deadline: float, max_chars: int) -> None:
        self._deadline = deadline
        self._max_chars = max_chars
        self._ticks = 0

    def tick(self) -> None:
        """One loop round or call."""
        self._ticks += 1
        if self._ticks % CLOCK_EVERY == 0 and time.monotonic() > self._deadline:
            raise TemplateError("it ran too long")

    def check_length(self, chars: int) -> None:
        """A text of `chars` characters exists, or is about to."""
        if chars > self._max_chars:
            raise TemplateError(f"it made a text of {chars} characters; accepted are up to {self._max_chars}")


_BUDGET: ContextVar[_Budget] = ContextVar("budget")


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox with a budget: every call, every loop round and every operator that can make a long text asks it."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _BUDGET.get().tick()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse what would be too long before it is made."""
        budget = _BUDGET.get()
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(times, int):
                    budget.check_length(len(text) * times)
        elif operator == "**":
            raise TemplateError("it uses **, which a chat template has no need of")
        elif operator == "%" and isinstance(left, str):
            raise TemplateError("it formats with %, which a chat template has no need of")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, str | list):
            budget.check_length(len(result))
        return result


class _Generation(Extension):
    """`{% generation %}` marks the assistant's tokens for training; for serving it is its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _bounded(template: nodes.Template) -> nodes.Template:
    """Route every loop and every `~` of a template through the budget."""
    for loop in list(template.find_all(nodes.For)):
        loop.iter = _filtered(cast(nodes.Expr, loop.iter), "_each")
    for join in list(template.find_all(nodes.Concat)):
        join.nodes = [_filtered(nodes.List(join.nodes, lineno=join.lineno), "_join")]
    return template


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _each(values: Iterable[Any]) -> Iterator[Any]:
    budget = _BUDGET.get()
    for value in values:
        budget.tick()
        yield value


def _join(values: list[Any]) -> str:
    texts = [str(value) for value in values]
    _BUDGET.get().check_length(sum(map(len, texts)))
    return "".join(texts)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, with the options of transformers' own; Jinja's filter escapes for HTML."""
    indent = min(indent, 16) if indent else None
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


def _sandbox() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    filters: dict[str, Callable[..., Any]] = {"tojson": _tojson, "_each": _each, "_join": _join}
    environment.filters.update(filters)
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


_SANDBOX = _sandbox()
