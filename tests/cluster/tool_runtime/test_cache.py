"""The cache of results: bounded in number and time, and careful about what means the same."""

import numpy as np
import pytest

from cluster.tool_runtime.cache import Key, ResultCache, key_of, meaning_of


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def key(name: str, tenant: str = "") -> Key:
    return key_of(tenant, "tool", {"name": name})


def test_a_result_is_used_for_its_time() -> None:
    clock = Clock()
    cache = ResultCache(entries=10, ttl_s=60, cosine=0.9, clock=clock)
    cache.put(key("a"), "A")
    clock.now_s = 59
    assert cache.exact(key("a")) == "A"
    clock.now_s = 60
    assert cache.exact(key("a")) is None
    assert len(cache) == 0


def test_the_one_used_longest_ago_goes_first() -> None:
    cache = ResultCache(entries=2, ttl_s=60, cosine=0.9)
    cache.put(key("a"), "A")
    cache.put(key("b"), "B")
    cache.exact(key("a"))
    cache.put(key("c"), "C")
    assert [cache.exact(key(name)) for name in "abc"] == ["A", None, "C"]


def test_no_entries_keep_nothing() -> None:
    cache = ResultCache(entries=0, ttl_s=60, cosine=0.9)
    cache.put(key("a"), "A")
    assert cache.exact(key("a")) is None


def test_keys_tell_tenants_tools_and_arguments_apart() -> None:
    arguments = {"a": 1, "b": [1, 2]}
    assert key_of("t", "x", arguments) == key_of("t", "x", {"b": [1, 2], "a": 1})
    others = [
        key_of("u", "x", arguments),
        key_of("t", "y", arguments),
        key_of("t", "x", {"a": 1, "b": [2, 1]}),
        key_of("t", "x", {"a": "1", "b": [1, 2]}),
        key_of("t", "x", {"a": True, "b": [1, 2]}),
    ]
    assert len({key_of("t", "x", arguments), *others}) == 6


def test_the_nearest_above_the_threshold_is_found() -> None:
    cache = ResultCache(entries=10, ttl_s=60, cosine=0.9)
    east, north = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    near = np.array([0.95, np.sqrt(1 - 0.95**2)], np.float32)
    cache.put(key("east"), "E", "frame", east)
    cache.put(key("north"), "N", "frame", north)
    cache.put(key("exact only"), "X")
    assert cache.alike(key("?"), "frame", near) == "E"
    assert cache.alike(key("?"), "another frame", near) is None
    assert cache.alike(key("?", tenant="another"), "frame", near) is None
    assert cache.alike(key("?"), "frame", np.array([0.7, 0.714], np.float32)) is None
    assert cache.alike(key("?"), "frame", np.array([1, 0, 0], np.float32)) is None, "another embedder's"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({"q": "weather in Paris"}, {"q": "Paris weather"}, True),
        ({"q": "in 2023"}, {"q": "in 2024"}, False),
        ({"q": "x", "days": 1}, {"q": "x", "days": 2}, False),
        ({"q": "x", "metric": True}, {"q": "x", "metric": 1}, False),
        ({"q": "x"}, {"query": "x"}, False),
        ({"q": ["a", "b"]}, {"q": ["a"]}, False),
        ({"q": "1"}, {"q": 1}, False),
    ],
)
def test_only_words_may_differ(one: dict[str, object], other: dict[str, object], alike: bool) -> None:
    assert (meaning_of(one).frame == meaning_of(other).frame) == alike


def test_the_words_are_what_is_embedded() -> None:
    assert meaning_of({"b": ["two", 3], "a": "one"}).text == "one\ntwo"
    assert meaning_of({"days": 3}).text == ""
