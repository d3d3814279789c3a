"""Chat templates and tools: which format one speaks, what it knows of tools, and what is written where it does not."""

import json
from typing import get_args

import pytest

from actors.base.vocabulary import Vocabulary
from cluster.gateway.chat import ChatTemplate
from cluster.gateway.config import ToolFormat
from cluster.gateway.tools.registry import FORMATS, format_of
from cluster.gateway.tools.template import instructions, short_id, tool_use
from protos.gen import inference_pb2

TOOL = inference_pb2.Tool(name="f", description="Does f.", parameters='{"type": "object", "properties": {"a": {}}}')
CALL = inference_pb2.ToolCall(id="call_1", name="f", arguments='{"a": "é"}')
OTHER = inference_pb2.ToolCall(id="call_2", name="f", arguments="")

# Reduced to what matters, in the manner of each family's own.
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
QWEN = """{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call>
{"name": <function-name>}{% endif %}
{%- for m in messages %}{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>
{%- else %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}{% endfor %}"""
LLAMA = """{% if tools %}{{ 'Respond as {"name": name, "parameters": dictionary}' }}{{ tools | tojson(indent=4) }}
{%- endif %}
{%- for m in messages %}{% if m.role == 'tool' %}<|start_header_id|>ipython{{ m.content }}
{%- elif 'tool_calls' in m %}{{ '{"name": "' ~ m.tool_calls[0].function.name ~ '", "parameters": ' }}
{{- m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}{% endfor %}"""
MISTRAL = """{% for m in messages %}{% if m.role == 'user' %}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}
{%- endif %}
{{- m.content }}{% elif m.tool_calls is defined %}[TOOL_CALLS][{% for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}{{ c.function | tojson }}
{%- endfor %}]{% elif m.role == 'tool' %}
{%- if m.tool_call_id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}
[TOOL_RESULTS]{{ m.content }}{% elif m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"""
AS_TEXT = """{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}
{{- '' + c.function.arguments }}{% endfor %}{% endfor %}"""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN


@pytest.fixture
def use(make_vocabulary):
    """Template source -> its render function and ToolUse."""

    def make(source, format=None):
        vocabulary = Vocabulary.from_message(make_vocabulary(source))
        template = ChatTemplate(vocabulary, timeout_s=2, max_chars=100_000)
        return template.render, tool_use(template.render, FORMATS[format] if format else format_of(source))

    return make


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (QWEN, "hermes"),
        (LLAMA, "llama"),
        (MISTRAL, "mistral"),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", "mistral-args"),
        ("in the form [func_name1(params_name1=params_value1)]", "pythonic"),
        ("You are a helpful AI assistant named SmolLM", "smollm"),
        ('<tool_call>[{"name": "func_name1", "arguments": {}}]</tool_call>', "smollm"),
        ("You are a helpful AI assistant named SmolLM. /no_think", "hermes"),
        (PLAIN, "hermes"),
    ],
)
def test_a_template_shows_its_format(source, name):
    assert format_of(source).name == name


@pytest.mark.parametrize(
    ("source", "knows"),
    [
        (QWEN, (True, True, True, False)),
        (LLAMA, (True, True, True, False)),
        (MISTRAL, (True, True, False, False)),
        (AS_TEXT, (True, True, True, True)),
        (PLAIN, (False, False, True, False)),
        (NO_SYSTEM, (False, False, False, False)),
        ("{{ 1 / 0 }}", (False, False, False, False)),
    ],
)
def test_what_a_template_knows_is_found_by_trying_it(use, source, knows):
    _, found = use(source)
    assert (found.takes_tools, found.takes_calls, found.takes_system, found.arguments_as_text) == knows


def test_every_format_can_be_configured():
    assert set(get_args(ToolFormat)) == set(FORMATS)


def conversation():
    return [
        inference_pb2.Message(role="user", content="go"),
        inference_pb2.Message(role="assistant", content="I look.", tool_calls=[CALL, OTHER]),
        inference_pb2.Message(role="tool", content="1", tool_call_id="call_1"),
        inference_pb2.Message(role="tool", content="2", tool_call_id="call_2"),
    ]


@pytest.mark.parametrize("source", [QWEN, AS_TEXT])
def test_a_template_that_knows_tools_is_given_them(use, source):
    render, found = use(source)
    text = render(*found.messages(conversation(), [TOOL]))
    assert all(part in text for part in ("Does f.", "I look.", '{"a": "é"}', "{}", "2"))


def test_ids_are_made_short_and_results_carry_the_tools_name(use):
    render, found = use(MISTRAL)
    messages, _ = found.messages(conversation(), [TOOL])
    assert [message.get("name") for message in messages] == [None, None, "f", "f"]
    ids = [call["id"] for call in messages[1]["tool_calls"]]
    assert [message["tool_call_id"] for message in messages[2:]] == ids
    assert len(set(ids)) == 2 and all(len(each) == 9 and each.isalnum() for each in ids)  # noqa: PT018
    assert short_id("abcDEF123") == "abcDEF123"
    assert "[TOOL_RESULTS]2" in render(messages, None)


@pytest.mark.parametrize("name", FORMATS)
def test_a_template_that_knows_nothing_of_tools_still_shows_all(use, name):
    render, found = use(PLAIN, name)
    system = [inference_pb2.Message(role="system", content="Be brief.")]
    text = render(*found.messages([*system, *conversation()], [TOOL]))
    assert text.startswith(f"<system>Be brief.\n\n{instructions(found.format, [TOOL])}<user>go<assistant>I look.")
    assert text.endswith("<user><tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>")
    reader = found.format.parser(frozenset({"f"}), certain=False)
    said = text.split("I look.")[1].split("<user>")[0]
    calls = [event for event in reader.feed(said) + reader.flush() if hasattr(event, "name")]
    assert len(calls) == 2 if found.format.syntax.several else said


def test_without_a_system_message_the_first_one_tells_of_tools(use):
    _, found = use(NO_SYSTEM)
    messages, tools = found.messages(conversation()[:1], [TOOL])
    assert tools is None
    assert messages == [{"role": "user", "content": f"go\n\n{instructions(found.format, [TOOL])}"}]


def test_the_example_in_the_instructions_is_read_as_a_call():
    for format in FORMATS.values():
        parser = format.parser(frozenset({"tool_name", "other_tool_name"}), certain=False)
        example = format.instructions.split(":\n", 1)[1]
        assert [event.name for event in parser.feed(example) + parser.flush() if hasattr(event, "name")]


def test_tools_are_described_as_openai_does():
    line = instructions(FORMATS["hermes"], [TOOL]).split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(line) == {
        "type": "function",
        "function": {"name": "f", "description": "Does f.", "parameters": {"type": "object", "properties": {"a": {}}}},
    }
