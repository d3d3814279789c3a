"""Chat templates: rendered as transformers does, and bounded whatever is in them."""

import time

import pytest

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary
from cluster.gateway.chat import ChatTemplate

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def render(make_vocabulary):
    def run(source, messages=HELLO, timeout_s=0.3, max_chars=10_000):
        vocabulary = Vocabulary.from_message(make_vocabulary(source))
        return ChatTemplate(vocabulary, timeout_s=timeout_s, max_chars=max_chars).render(messages)

    return run


def test_messages_and_names_reach_the_template(render):
    source = (
        "{{ bos_token }}{% for message in messages %}{{ message.role + ':' + message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}{{ eos_token }}"
    )
    assert render(source) == "<|endoftext|>user:hello\nassistant:<|im_end|>"


def test_loop_variables_break_and_generation_blocks_work(render):
    source = (
        "{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{{ loop.length }}{{ m.content }}"
        "{% if not loop.last %},{% endif %}{% endfor %}{% generation %}{{ 'x' ~ 1 }}{% endgeneration %}"
    )
    assert render(source, [{"role": "user", "content": c} for c in "abc"]) == "3a,3b,x1"


def test_helpers(render):
    assert render("{{ {'a': 'é<'} | tojson }}") == '{"a": "é<"}'
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


def test_blocks_leave_no_blank_lines(render):
    assert render("{% if true %}\nx\n{% endif %}\ny") == "x\ny"


def test_a_refusal_carries_the_templates_own_words(render):
    with pytest.raises(InvalidArgument, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].nothing.more }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_what_fails_or_reaches_out_is_refused(render, source):
    with pytest.raises(InvalidArgument):
        render(source)


def test_no_jinja_and_no_template_say_so(render):
    with pytest.raises(InvalidArgument, match="no Jinja"):
        render("{% for %}")
    with pytest.raises(InvalidArgument, match="no chat template"):
        render("")


@pytest.mark.parametrize(
    "source",
    [
        "{% set r = range(90000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_time_is_bounded(render, source):
    began = time.monotonic()
    with pytest.raises(InvalidArgument, match="too long"):
        render(source)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9000) %}abc{% endfor %}",
        "{{ 'a' * 100000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 9 ** 999999999 }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
)
def test_size_is_bounded(render, source):
    with pytest.raises(InvalidArgument, match=r"characters|no need"):
        render(source)
