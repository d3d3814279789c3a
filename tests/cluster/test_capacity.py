"""What a machine has against what models need, decided before anything starts."""

from pathlib import Path

import pytest

from actors.base.errors import InvalidArgument, NotFound
from cluster import capacity
from tests.conftest import settings


def test_replicas_share_the_cores(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    config, topology = capacity.planned(settings(home, models__0__replicas=2), "here")
    assert [placement.threads for placement in topology.placements] == [4, 4]
    assert config.models[0].threads == 4
    chosen, _ = capacity.planned(settings(home, models__0__threads=3), "here")
    assert chosen.models[0].threads == 3


def test_too_little_memory_is_refused_with_the_numbers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "available_memory", lambda: 100 << 20)
    with pytest.raises(InvalidArgument, match=r"needs 0\.26 GB .*0\.13 GB KV.*here: 0\.10 GB free"):
        capacity.planned(settings(home), "here")


def test_a_missing_model_is_refused_by_name(home: Path) -> None:
    with pytest.raises(NotFound, match=r"/nowhere\.gguf.*smollm2-135m-instruct"):
        capacity.planned(settings(home, models__0__model="/nowhere.gguf"), "here")
