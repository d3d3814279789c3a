"""Parsers of tool calls: the same however a text is cut, and nothing of it is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.tools.events import Text
from cluster.gateway.tools.reader import CallReader
from cluster.gateway.tools.registry import FORMATS

NAMES = frozenset({"f", "get-it"})
TAGS = ("hermes", "smollm")


def read(name, pieces, *, certain=False):
    """Text (as one) and calls of an answer in pieces."""
    reader = CallReader(FORMATS[name].parser(NAMES, certain=certain))
    deltas = [delta for piece in pieces for delta in reader.push(piece)] + reader.finish()
    texts = "".join(delta for delta in deltas if isinstance(delta, str))
    assert "" not in deltas
    told = {}
    for delta in deltas:
        if not isinstance(delta, str):
            if delta.id:
                assert (delta.index, delta.arguments) == (len(told), "")
                told[delta.index] = [delta.name, ""]
            told[delta.index][1] += delta.arguments
    assert [(call.name, call.arguments) for call in reader.calls] == [tuple(each) for each in told.values()]
    return texts, [(call.name, call.arguments) for call in reader.calls], reader.whole


def cuts(text):
    """Every way to cut a text in two, and into single characters."""
    yield from ([text[:place], text[place:]] for place in range(len(text) + 1))
    yield list(text)


F = ("f", '{"a": "}]</tool_call>\\"", "b": [1, {}]}')
CALLS = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>\n'
    '<tool_call>\n{"name": "get-it", "arguments": {}}\n</tool_call>',
    "smollm": '<tool_call>[{"name": "f", "arguments": %s}, {"name": "get-it", "arguments": {}}]</tool_call>',
    "llama": '{"name": "f", "parameters": %s}; {"name": "get-it", "parameters": {}}',
    "mistral": '[TOOL_CALLS] [{"name": "f", "arguments": %s}, {"name": "get-it", "arguments": {}}]',
    "mistral-args": "[TOOL_CALLS]f[ARGS]%s[TOOL_CALLS]get-it[CALL_ID]abc[ARGS]{}",
}
BOTH = {name: text.replace("%s", F[1]) for name, text in CALLS.items()}
BOTH["pythonic"] = """[f(a='}]</tool_call>"', b=[1, {}]), get-it()]"""


@pytest.mark.parametrize("certain", [False, True])
@pytest.mark.parametrize("name", BOTH)
def test_two_calls_however_they_are_cut(name, certain):
    for pieces in cuts(BOTH[name]):
        text, calls, whole = read(name, pieces, certain=certain)
        assert (text, whole) == ("", 2)
        assert calls == [F, ("get-it", "{}")]


@pytest.mark.parametrize("certain", [False, True])
@pytest.mark.parametrize("name", BOTH)
def test_white_space_beside_calls_is_no_text(name, certain):
    assert read(name, [f"\n {BOTH[name]}\n"], certain=certain)[0] == ""


@pytest.mark.parametrize("name", [name for name in BOTH if FORMATS[name].syntax.marker])
def test_text_before_and_after_calls_stays(name):
    for pieces in cuts(f"I look. <tool\n{BOTH[name]} Done."):
        text, calls, _ = read(name, pieces)
        assert (text, len(calls)) == ("I look. <tool\n Done.", 2)


NO_CALLS = {
    "hermes": [
        "<tool_call>",
        "a <tool_call> b",
        "<tool_call>{}</tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1}',
        '<tool_call>[{"name": "f", "arguments": {}}',
        '<tool_call>{"name": "f", "arguments": {}} and',
        '{"name": "f", "arguments": {}}',
        "</tool_call>",
        " \n",
        "",
        '<tool_call>{"name": ["f"]}</tool_call>',
        "<tool_call>" + "[" * 5000,
        '<tool_call>{"a":' * 300,
    ],
    "llama": [
        '{"name": "other", "parameters": {}}',
        '{"city": "Paris"}',
        '{"name": "f"',
        'See {"name": "f", "parameters": {}}',
        "<|python_tag|>print(1)",
        "{",
        "{}",
    ],
    "mistral": ["[TOOL_CALLS]", "[TOOL_CALLS][]", '[TOOL_CALLS][{"name": "f"', "[TOOL_CALLS]f[ARGS]{}", "[TOOL_"],
    "mistral-args": ["[TOOL_CALLS]f", "[TOOL_CALLS]g[ARGS]{}", "[TOOL_CALLS]f[ARGS]{1}", "[TOOL_CALLS]" + "x" * 500],
    "pythonic": [
        "[f()",
        "[g()]",
        "[f(1)]",
        "[f(**{})]",
        "[f(a=b)]",
        "[1, 2]",
        "[]",
        "f()",
        "[f(a=1))]",
        '[f(a="x)]',
        "[f](x)",
        "[f(a=" + "[" * 500 + "]" * 500 + ")]",
        "[f(a=1e999)]",
        '[f(a="\\ud800")]',
        "[f(a=1, a=2)]",
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in NO_CALLS.items() for text in texts])
def test_what_is_no_call_is_text_to_the_last_character(name, text):
    whole = read(name, [text])
    assert whole == (text, [], 0)
    if len(text) < 500:
        assert all(read(name, pieces) == whole for pieces in cuts(text))


LENIENT = [
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}', '{"a": 1}'),
    ("hermes", '<tool_call>{"id": 3, "name": "f", "parameters": {"a": 1}} </tool_', '{"a": 1}'),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', "{}"),
    ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', "{}"),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', '{"a": 1}'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x\ny"}}</tool_call>', '{"a": "x\\ny"}'),
    ("llama", '<|python_tag|>{"name": "f", "parameters": {}}', "{}"),
    (
        "pythonic",
        "[f(a=True, b=null, c=-1.5, d=(1,), e='\\d')]",
        '{"a": true, "b": null, "c": -1.5, "d": [1], "e": "\\\\d"}',
    ),
    ("pythonic", '[f(a="\\ud83d\\ude00", b={"k": "é"})]', '{"a": "😀", "b": {"k": "é"}}'),
    ("pythonic", '<|python_start|>[f(a="]")]', '{"a": "]"}'),
]


@pytest.mark.parametrize(("name", "text", "arguments"), LENIENT)
def test_what_weak_models_write_is_read_where_it_is_clear(name, text, arguments):
    assert read(name, [text]) == ("", [("f", arguments)], 1)


@pytest.mark.parametrize("name", [name for name in BOTH if name != "pythonic"])
def test_arguments_are_told_of_while_they_are_written(name):
    head, tail = BOTH[name].split('"b"')
    reader = CallReader(FORMATS[name].parser(NAMES, certain=True))
    assert reader.push(head)[0].name == "f"
    assert (reader.calls[0].arguments, reader.whole) == (F[1].split('"b"')[0], 0)
    reader.push(tail)
    assert reader.whole == 2


@pytest.mark.parametrize("name", [name for name in BOTH if name != "pythonic"])
def test_a_cut_call_keeps_what_was_told_of_it(name):
    head = BOTH[name].split('"b"')[0]
    assert read(name, [head], certain=True) == ("", [("f", F[1].split('"b"')[0])], 0)
    assert read(name, [head]) == (head, [], 0)


def test_a_cut_beginning_of_a_second_call_is_text():
    first = '<tool_call>[{"name": "f", "arguments": {}}'
    assert read("smollm", [f'{first}, {{"na'], certain=True) == ('{"na', [("f", "{}")], 1)


GOOD = {"hermes": '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "mistral-args": "[TOOL_CALLS]f[ARGS]{}"}
BAD = {
    "hermes": ["<tool_call>no</tool_call>", '<tool_call>{"name": "g"}</tool_call>', "<tool_call><tool_call>", "<tool_"],
    "mistral-args": ["[TOOL_CALLS]g[ARGS]{}", "[TOOL_CALLS]", "[TOOL_CALLS]f[ARGS]{1}", "[TOOL_CALLS]f!{}"],
}


@pytest.mark.parametrize("name", GOOD)
@given(data=st.data())
def test_text_broken_calls_and_calls_come_apart_in_order(name, data):
    parts = data.draw(st.lists(st.sampled_from([GOOD[name], *BAD[name], "word", "{", "é 日本"]), max_size=8))
    text, expected, calls = "", "", 0
    for place, part in enumerate(parts):  # words between: white space beside calls is no text
        text += f"{part}~{place}~"
        expected += f"~{place}~" if part == GOOD[name] else f"{part}~{place}~"
        calls += part == GOOD[name]
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[low:high] for low, high in zip([0, *places], [*places, len(text)], strict=True)]
    if name == "mistral-args" and "[TOOL_CALLS]~" in text:
        expected = None  # a marker without its name takes text with it until it shows that it is none
    told, found, _ = read(name, pieces)
    assert (told, found) == read(name, [text])[:2]
    if expected is not None:
        assert (told, len(found)) == (expected, calls)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_any_text_is_read_the_same_however_it_is_cut(name, data):
    alphabet = [
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        '{"name": "f", "arguments": ',
        '"parameters": ',
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        "f(",
        ")",
        "a=",
        ",",
        ";",
        " ",
        "\n",
        "<",
        "1",
        "'",
        "<|python_tag|>",
        "é",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(alphabet), max_size=25)))
    whole = read(name, [text])
    assert read(name, list(text)) == whole
    if not whole[1]:
        assert whole[0] == text
    for _, arguments in whole[1]:
        assert isinstance(json.loads(arguments), dict)


def test_events_of_one_piece_are_merged():
    assert FORMATS["hermes"].parser(NAMES, certain=False).feed("a b") == [Text("a b")]
