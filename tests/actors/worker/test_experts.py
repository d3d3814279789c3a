"""Experts on disk: what a configuration asks for, how many bytes experts are, and what placing makes of it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from actors.base.errors import InvalidArgument
from actors.worker.config import WorkerConfig
from actors.worker.experts import expert_memory
from actors.worker.models.expert_bytes import expert_bytes
from cluster.capacity import demand_of
from cluster.config import ModelConfig
from tests.oracles import tiny_llama, tiny_moe
from tests.oracles.tiny_moe import EXPERTS, FAMILIES, HIDDEN, LAYERS, WIDTH


def test_all_experts_are_in_memory_unless_a_budget_is_given() -> None:
    assert expert_memory(WorkerConfig()) is None
    assert expert_memory(WorkerConfig(deterministic=True, expert_bonus=0)) is None


def test_the_bonus_is_nothing_where_rows_must_not_depend_on_each_other(tmp_path: Path) -> None:
    budget = WorkerConfig(experts_memory_bytes=99, kv_disk_directory=tmp_path)
    assert expert_memory(budget) == (99, 0.15, tmp_path)
    assert expert_memory(budget.model_copy(update={"deterministic": True})) == (99, 0.0, tmp_path)
    assert expert_memory(budget.model_copy(update={"expert_bonus": 0.0})) == (99, 0.0, tmp_path)
    with pytest.raises(InvalidArgument, match=r"expert_bonus = 0\.2 with deterministic = true"):
        expert_memory(budget.model_copy(update={"expert_bonus": 0.2, "deterministic": True}))


def test_a_bonus_without_experts_on_disk_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"expert_bonus = 0\.2 has nothing to do where experts_memory_bytes = 0"):
        WorkerConfig(expert_bonus=0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_expert_bytes_are_told_by_the_header(tmp_path: Path, family: str) -> None:
    wanted = LAYERS * EXPERTS * 3 * HIDDEN * WIDTH * 4
    arrays = tiny_moe.tensors(family)
    assert expert_bytes(str(tiny_moe.write_directory(tmp_path / "a", family, arrays))) == wanted
    stacked = tiny_moe.stacked(family, arrays)
    assert expert_bytes(str(tiny_moe.write_directory(tmp_path / "b", family, stacked))) == wanted
    assert expert_bytes(str(tiny_moe.write_gguf(tmp_path / "c.gguf", family))) == wanted
    assert expert_bytes(str(tiny_llama.write_gguf(tmp_path / "d.gguf"))) == 0


def test_a_model_is_placed_by_what_it_holds_in_memory(tmp_path: Path) -> None:
    model = str(tiny_moe.write_directory(tmp_path / "m", "mixtral"))
    whole, paged = (demand_of(ModelConfig(model=model, experts_memory_bytes=budget)) for budget in (0, 30_000))
    on_disk = LAYERS * EXPERTS * 3 * HIDDEN * WIDTH * 4
    assert whole.weight_bytes - paged.weight_bytes == pytest.approx(1.3 * on_disk - 30_000, abs=2)
