"""What a machine has against what models need, decided before anything starts."""

import os
from pathlib import Path

import pytest

from actors.base.errors import InvalidArgument, NotFound
from cluster import capacity
from tests.conftest import settings


def test_replicas_share_the_cores(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: 8)
    config, topology = capacity.planned(settings(home, models__0__replicas=2), "here")
    assert [placement.threads for placement in topology.placements] == [4, 4]
    assert config.models[0].threads == 4
    chosen, _ = capacity.planned(settings(home, models__0__threads=3), "here")
    assert chosen.models[0].threads == 3


def test_threads_that_are_bound_are_as_many_as_their_processors(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: 8)
    config, _ = capacity.planned(settings(home, models__0__replicas=2, models__0__cpus=[4, 5, 6, 7, 0, 1]), "here")
    model = config.models[0]
    assert [(model.of_replica(index).threads, model.of_replica(index).cpus) for index in (0, 1)] == [
        (3, (4, 5, 6)),
        (3, (7, 0, 1)),
    ]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to processors")
def test_cores_are_those_that_the_process_is_bound_to_and_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for limits, cores in ((["max 100000"], 4), (["max 100000", "250000 100000"], 2), (["50000 100000"], 1)):
        monkeypatch.setattr(capacity, "_cpu_limits", lambda _, limits=limits: [limit.split() for limit in limits])
        assert capacity.cores() == cores


def test_too_little_memory_is_refused_with_the_numbers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "available_memory", lambda: 100 << 20)
    with pytest.raises(InvalidArgument, match=r"needs 0\.26 GB .*0\.13 GB KV.*here: 0\.10 GB free"):
        capacity.planned(settings(home), "here")


def test_a_missing_model_is_refused_by_name(home: Path) -> None:
    with pytest.raises(NotFound, match=r"/nowhere\.gguf.*smollm2-135m-instruct"):
        capacity.planned(settings(home, models__0__model="/nowhere.gguf"), "here")
