"""The prompts are what they are said to be."""

import pytest

from tests.benchmarks import quotes


@pytest.mark.skipif(not quotes.TEXT.is_file(), reason=f"no text at {quotes.TEXT}: set RUSSET_DATA to where it is")
def test_prompts_are_of_all_kinds_and_about_different_texts() -> None:
    prompts = quotes.quoting(40)
    assert {prompt.kind for prompt in prompts} == {"edit", "extract", "retrieve"}
    texts = [prompt.messages[0]["content"] for prompt in prompts]
    assert len(set(texts)) == 40
    assert quotes.quoting(40) == prompts
    assert len(quotes.chat()) == 160


def test_quoted_is_the_share_of_an_answer_that_the_prompt_has() -> None:
    prompt = [1, 2, 3, 4, 5, 6, 7, 8]
    assert quotes.quoted(prompt, [3, 4, 5, 6, 7]) == 1
    assert quotes.quoted(prompt, [8, 7, 6, 5, 4]) == 0
    assert quotes.quoted(prompt, [1, 2, 3, 4, 9]) == 0.5
    assert quotes.quoted(prompt, []) == 0
