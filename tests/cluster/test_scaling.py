"""When there are to be more replicas of a model, when fewer, and when neither."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scaling import Load, ScalingConfig, Wish, decide, pressure

AIM = ScalingConfig(up_after_s=5, down_after_s=60)
IDLE = Load(0, 0, 10, 0.0, 0.0)
FULL = Load(10, 20, 10, 0.5, 9.0)
loads_ = st.lists(
    st.builds(Load, st.integers(0, 64), st.integers(0, 500), st.integers(1, 64), st.floats(0, 1), st.floats(0, 100)),
    min_size=1,
    max_size=8,
)


def after(loads: list[Load], seconds: int, least: int = 1, most: int = 4, wishes: tuple[Wish, ...] = ()) -> list[int]:
    """What is decided each second."""
    found = []
    for second in range(seconds):
        decision = decide(loads, second, least, most, AIM, wishes)
        wishes = decision.wishes
        found.append(decision.replicas)
    return found


def test_more_only_once_they_were_wanted_for_a_while() -> None:
    assert after([FULL], 7) == [1, 1, 1, 1, 1, 2, 1]
    # After that it begins anew: what came has not taken its share yet.


def test_fewer_only_after_long_and_never_below_the_least() -> None:
    assert after([IDLE] * 3, 62) == [3] * 60 + [1, 3]
    assert after([IDLE] * 3, 61, least=2)[-1] == 2
    assert after([IDLE], 200) == [1] * 200


def test_a_burst_between_keeps_the_replicas() -> None:
    wishes: tuple[Wish, ...] = ()
    for second in range(100):
        loads = [FULL, FULL] if second == 50 else [IDLE, IDLE]
        decision = decide(loads, second, 1, 4, AIM, wishes)
        wishes = decision.wishes
        assert decision.replicas == 2


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (Load(7, 0, 10, 0.1, 0.0), "7 requests for 10 rows"),
        (Load(1, 0, 10, 0.8, 0.0), "80% of KV memory in use"),
        (Load(1, 1, 10, 0.1, 4.0), "requests wait 4.0 s"),
    ],
)
def test_each_signal_can_decide(load: Load, says: str) -> None:
    told = pressure([load], AIM)
    assert told.because == says
    assert told.value >= 0.99


def test_while_one_replica_has_no_queue_nobody_need_wait() -> None:
    assert pressure([Load(1, 1, 10, 0.1, 9.0), Load(1, 0, 10, 0.1, 0.0)], AIM).value < 1


def test_near_what_is_aimed_at_nothing_changes() -> None:
    near = Load(7, 0, 10, 0.0, 0.0)
    assert set(after([near, near], 200)) == {2}


@given(loads_, st.integers(1, 4), st.integers(4, 9), st.lists(st.integers(1, 9), max_size=9))
def test_always_within_the_limits_and_never_more_than_doubled(
    loads: list[Load], least: int, most: int, before: list[int]
) -> None:
    wishes = tuple(Wish(float(second), wish) for second, wish in enumerate(before))
    decision = decide(loads, 100.0, least, most, AIM, wishes)
    assert least <= decision.replicas <= most
    assert decision.replicas <= max(2 * len(loads), least)
