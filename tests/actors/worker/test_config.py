"""The worker's configuration."""

import pytest
from pydantic import ValidationError

from actors.worker.config import WorkerConfig


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
