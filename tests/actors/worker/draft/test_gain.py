"""The clock has the last word on whether drafts pay."""

from actors.worker.draft.gain import LEAST_REST, MOST_REST, TRIAL, Gains


def steps(gains: Gains, rows: int, count: int, tokens: int, ms: float, drafted: bool) -> None:
    for _ in range(count):
        gains.took(rows, tokens, ms, drafted)


def test_plain_steps_are_measured_before_drafts_are_judged() -> None:
    gains = Gains()
    assert gains.rest(16) == 0
    steps(gains, 16, TRIAL, 20, 10.0, drafted=True)
    assert gains.rest(16) == TRIAL
    steps(gains, 16, TRIAL, 16, 10.0, drafted=False)
    assert gains.rest(16) == 0


def test_drafts_that_lose_time_rest_longer_each_time_and_come_back() -> None:
    gains, rests = Gains(), []
    steps(gains, 16, TRIAL, 16, 10.0, drafted=False)
    for _ in range(8):
        steps(gains, 16, TRIAL, 17, 11.0, drafted=True)
        rests.append(gains.rest(16))
        steps(gains, 16, rests[-1], 16, 10.0, drafted=False)
        assert gains.rest(16) == 0
    assert rests[:3] == [LEAST_REST, 2 * LEAST_REST, 4 * LEAST_REST]
    assert rests[-1] == MOST_REST


def test_drafts_that_gain_never_rest() -> None:
    gains = Gains()
    steps(gains, 1, TRIAL, 1, 4.0, drafted=False)
    steps(gains, 1, 500, 3, 6.0, drafted=True)
    assert gains.rest(1) == 0


def test_numbers_of_rows_are_told_apart() -> None:
    gains = Gains()
    for rows in (1, 16):
        steps(gains, rows, TRIAL, rows, 10.0, drafted=False)
    steps(gains, 16, TRIAL, 16, 12.0, drafted=True)
    assert gains.rest(16)
    assert not gains.rest(1)


def test_an_interrupted_step_says_little() -> None:
    gains = Gains()
    steps(gains, 1, TRIAL, 1, 4.0, drafted=False)
    steps(gains, 1, TRIAL, 3, 6.0, drafted=True)
    gains.took(1, 3, 5000.0, drafted=True)
    assert gains.rest(1) == 0


def test_a_batch_that_shrinks_is_not_tried_at_each_number_of_rows() -> None:
    gains = Gains()
    steps(gains, 16, TRIAL, 16, 10.0, drafted=False)
    steps(gains, 16, TRIAL, 16, 12.0, drafted=True)
    assert gains.rest(15) == gains.rest(16) == LEAST_REST
    steps(gains, 3, TRIAL, 3, 10.0, drafted=False)
    steps(gains, 3, TRIAL, 3, 12.0, drafted=True)
    assert gains.rest(3)
    assert not gains.rest(2), "few rows are measured by themselves"
    assert not gains.rest(4)
