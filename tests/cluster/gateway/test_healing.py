"""Token healing: what is taken back of a prompt, and that its text is not repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.healing import heal
from cluster.gateway.stream import TextStream


async def test_the_last_token_is_taken_back_and_not_repeated(world):
    scheduler = await world.replica(answer="c and more")  # begins with what was taken back
    await world.start()
    body = {"model": "tiny", "prompt": "abc", "logprobs": 0, "stop": ["c a"], "russet": {"token_healing": True}}
    choice = (await world.client().post("/v1/completions", json=body)).json()["choices"][0]
    request = scheduler.requests[0]
    assert (bytes(request.token_ids), request.prompt_tokens) == (b"ab", 2)
    assert request.grammar.regex == "c(?s:.*)"
    # No stop string begins in the prompt.
    assert choice["text"] == " and more"
    assert choice["logprobs"]["tokens"] == list("c and more")
    assert choice["logprobs"]["text_offset"] == [0, *range(9)]


async def test_without_it_nothing_is_taken_back(world):
    scheduler = await world.replica()
    await world.start()
    for russet in ({}, {"token_healing": False}):
        await world.client().post("/v1/completions", json={"model": "tiny", "prompt": "abc", "russet": russet})
        assert bytes(scheduler.requests[-1].token_ids) == b"abc"
        assert not scheduler.requests[-1].HasField("grammar")


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        ("completions", {"echo": True}, "token_healing"),
        ("completions", {"ignore_eos": True}, "token_healing"),
        ("completions", {"min_tokens": 2}, "token_healing"),
        ("completions", {"response_format": {"type": "json_object"}}, "token_healing"),
        ("chat/completions", {}, "russet.token_healing"),
        ("responses", {"input": "x"}, "russet.token_healing"),
        ("messages", {"max_tokens": 5}, "russet.token_healing"),
    ],
)
async def test_what_it_cannot_be_had_with_is_named(world, path, more, param):
    await world.replica()
    await world.start()
    messages = {"messages": [{"role": "user", "content": "x"}]}
    prompt = {"completions": {"prompt": "x"}, "responses": {}}.get(path, messages)
    body = {"model": "tiny", "russet": {"token_healing": True}} | prompt | more
    reply = await world.client().post(f"/v1/{path}", json=body)
    assert reply.status_code == 400
    assert param in reply.text


def test_whole_characters_are_taken_back(tiny):
    assert heal([*b"ab"], tiny) == ([*b"a"], "b")
    assert heal([*"aé".encode()], tiny) == ([*b"a"], "é")
    assert heal([*"a😀".encode()], tiny) == ([*b"a"], "😀")
    # A prompt of one token, one that ends with a special token, and bytes that are no text stay as they are.
    for ids in ([97], [97, 258], [97, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]):
        assert heal(ids, tiny) == (ids, "")


class Bytes:
    special_ids = frozenset()

    def token_bytes(self, token):
        return bytes([token])


@given(st.text(max_size=8), st.text(max_size=12), st.integers(1, 5))
def test_what_is_skipped_is_never_text(tail, text, group):
    stream = TextStream(Bytes(), (), len(tail))
    ids = list((tail + text).encode())
    said = "".join(stream.push(ids[at : at + group]) for at in range(0, len(ids), group)) + stream.finish()
    assert said == text
