"""The worker's configuration."""

import pytest
from pydantic import ValidationError

from actors.worker.config import WorkerConfig
from kernels import cpu


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "smollm2-135m-instruct"),
        ({"model": "/models/Qwen2.5-0.5B.gguf"}, "Qwen2.5-0.5B"),
        ({"model": "/models/llama-mlx/"}, "llama-mlx"),
        ({"model": "x.gguf", "model_id": "My-Model"}, "My-Model"),
    ],
)
def test_served_name(config: dict[str, str], name: str) -> None:
    assert WorkerConfig.model_validate(config).served_name == name


def test_a_step_must_hold_a_token_of_every_row() -> None:
    with pytest.raises(ValidationError, match="max_step_tokens = 32 is less than max_rows = 64"):
        WorkerConfig(max_step_tokens=32)


@pytest.mark.skipif(not cpu.available(), reason=cpu.reason() or "kernels.cpu is here")
def test_every_instruction_set_of_this_machine_may_be_named_and_no_other() -> None:
    for isa in ("auto", *cpu._ext.supported_isas()):
        assert WorkerConfig(isa=isa).isa == isa
    for unknown in ("sse9", "amx_emulated"):
        with pytest.raises(ValidationError, match="'auto', 'amx', 'avx512vnni'"):
            WorkerConfig.model_validate({"isa": unknown})
