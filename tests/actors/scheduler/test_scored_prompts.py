"""Prompts whose log-probabilities are told: none twice and all of them, also where the worker is lost meanwhile."""

from actors.scheduler.config import SchedulerConfig
from actors.scheduler.reconcile import reconcile
from protos.gen import worker_pb2

PROMPT = list(range(11, 41))


def told(drive, plan, computed, count, tokens=()):
    """What reconcile makes of a worker's news: so much computed, so many prompt tokens told of."""
    row = plan.row[0]
    logprobs = worker_pb2.Logprobs(chosen=[-2.0], tops=0)
    result = worker_pb2.StepResult(
        epoch=drive.worker.epoch,
        plan_id=plan.plan_id,
        step=1,
        row=[row],
        computed=[computed],
        token_count=[len(tokens)],
        token_ids=tokens,
        end=[worker_pb2.ROW_RUNNING],
        logprobs=[logprobs] if tokens else [],
        prompt_logprobs=[worker_pb2.Logprobs(row=row, chosen=[-1.0] * count, tops=0)] if count else [],
    )
    drive.batch.settle(result, 0.0)
    (news,) = reconcile(drive.batch, result).news
    return news


def planned(drive):
    plan = drive.batch.enact(drive.batch.decide(0.0), 0.0)
    drive.worker.apply(plan)
    return plan


def test_what_was_told_is_not_asked_for_again_after_a_loss(instruments):
    drive = instruments.Drive(SchedulerConfig())
    sequence = drive.submit("scored", PROMPT, 5, logprobs=0, score_from=1)
    plan = planned(drive)
    assert plan.start[0].score_from == 1
    assert len(told(drive, plan, 8, 8).prompt_logprobs.chosen) == 8
    drive.lose_worker()
    plan = planned(drive)
    start = plan.start[0]
    assert (start.score_from, start.cached_tokens, list(start.token_ids)) == (9, 0, PROMPT)
    assert start.HasField("logprobs")
    news = told(drive, plan, 30, 21, tokens=[99])
    assert len(news.prompt_logprobs.chosen) == 21, "with the eight before, all but the first"
    drive.lose_worker()
    start = planned(drive).start[0]
    assert (start.score_from, start.prompt_tokens, list(start.token_ids)) == (0, 30, [*PROMPT, 99])
    assert sequence.score_from == 0
