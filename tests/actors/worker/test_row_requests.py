"""What the worker logs of a row is logged in the name of its request."""

import logging

import pytest

from actors.base.telemetry import REQUEST
from actors.worker.row_requests import RowRequests
from protos.gen import worker_pb2


def plan(rows: list[int], **started: str) -> worker_pb2.Plan:
    starts = [worker_pb2.RowStart(row=int(name.removeprefix("r")), request_id=of) for name, of in started.items()]
    return worker_pb2.Plan(row=rows, start=starts)


def test_a_failed_row_is_logged_for_its_request(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str]] = []
    caplog.handler.addFilter(lambda record: bool(told.append((REQUEST.get(), record.getMessage())) or True))
    requests = RowRequests()
    requests.planned(plan([1, 2, 3], r1="one", r2="two", r3="three"))
    requests.planned(plan([1, 3]))
    result = worker_pb2.StepResult(
        row=[1, 3], end=[worker_pb2.ROW_RUNNING, worker_pb2.ROW_ERROR], error=["not a number"]
    )
    with caplog.at_level(logging.INFO):
        requests.reported(result)
    assert told == [("three", "row 3 failed: not a number")]
    assert REQUEST.get() == "", "and nothing after it"


def test_rows_that_ended_are_forgotten() -> None:
    requests = RowRequests()
    requests.planned(plan([1, 2], r1="one", r2="two"))
    requests.planned(plan([2, 3], r3="three"))
    assert requests._of == {2: "two", 3: "three"}
