"""What a worker says of guessed tokens, as the scheduler books it."""

import pytest

from actors.base.errors import Internal
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.reconcile import reconcile
from protos.gen import worker_pb2


def test_tokens_that_come_several_at_a_time_are_booked_with_what_was_guessed(instruments):
    drive = instruments.Drive(SchedulerConfig(lease_tokens=8), pages=64, page_size=4, guesses=6)
    first = drive.submit("first", 9, 40, stop_ids=())
    second = drive.submit("second", 5, 40, stop_ids=())
    drive.run()
    for sequence in (first, second):
        said = sequence.token_ids[sequence.num_prompt_tokens :]
        assert said == instruments.answer(
            sequence.token_ids[: sequence.num_prompt_tokens], sequence.max_length, ignore_eos=True
        )
        assert 0 < sequence.num_accepted_tokens < sequence.num_drafted_tokens
        assert sequence.num_accepted_tokens < len(said)
    assert drive.worker.step_count < 30, "guesses that stand save steps"


def test_columns_that_do_not_fit_are_refused(instruments):
    drive = instruments.Drive(SchedulerConfig(), pages=64)
    result = worker_pb2.StepResult(epoch=drive.batch.epoch, row=[], computed=[], token_count=[], end=[], drafted=[1])
    with pytest.raises(Internal, match="drafted"):
        reconcile(drive.batch, result)
