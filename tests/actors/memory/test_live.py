"""Sessions in the process: bounded, and gone when idle."""

from hypothesis import given
from hypothesis import strategies as st

from actors.memory.live import LiveSessions

STEPS = st.lists(
    st.tuples(st.sampled_from(("put", "get", "drop", "wait")), st.sampled_from("abcd"), st.integers(0, 6)), max_size=40
)


@given(STEPS)
def test_it_never_exceeds_its_bounds_and_gives_what_was_put_last(steps):
    now = 0.0
    live = LiveSessions(3.0, lambda: now, sessions=2, most_bytes=8)
    put: dict[str, tuple[bytes, float]] = {}
    for what, digest, size in steps:
        match what:
            case "put":
                live.put(digest, bytes(size))
                put[digest] = (bytes(size), now)
            case "drop":
                live.drop(digest)
                put.pop(digest, None)
            case "wait":
                now += 1
            case "get":
                got = live.get(digest)
                assert got is None or (got, True) == (put[digest][0], now < put[digest][1] + 3)
        held = [each for each in "abcd" if live.get(each) is not None]
        assert len(live) <= 2
        assert sum(len(put[each][0]) for each in held) <= 8


def test_the_least_recently_used_leaves_first():
    live = LiveSessions(10, lambda: 0.0, sessions=2, most_bytes=100)
    live.put("a", b"1")
    live.put("b", b"2")
    assert live.get("a") == b"1"
    live.put("c", b"3")
    assert (live.get("a"), live.get("b"), live.get("c")) == (b"1", None, b"3")
    live.put("d", bytes(100))
    assert (len(live), live.get("d")) == (1, bytes(100))


def test_an_idle_one_is_gone():
    now = 0.0
    live = LiveSessions(10, lambda: now, sessions=2, most_bytes=100)
    live.put("a", b"1")
    now = 10.0
    assert live.get("a") is None
    assert len(live) == 0
