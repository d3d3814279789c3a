"""The random llama is a file that loads, of the shape and the formats it says."""

from pathlib import Path

import numpy as np
import pytest

from actors.worker.models import load_model
from kernels.decoder import Quantized
from tests.benchmarks import larger
from tests.oracles.decoder import dense
from tests.oracles.gguf_writer import Q4_0, Q4_1


@pytest.mark.parametrize("kind", [Q4_0, Q4_1])
def test_the_file_loads_with_values_of_the_intended_size(
    kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LAYERS": 1, "HIDDEN": 128, "HEADS": 4, "KV_HEADS": 2, "INTERMEDIATE": 256}.items():
        monkeypatch.setattr(larger, name, value)
    model = load_model(str(larger.write_model(tmp_path / "small.gguf", kind)))
    assert (model.spec.layers, model.spec.hidden, model.spec.kv_heads, model.spec.head_dim) == (1, 128, 2, 32)
    gate = model.weights.layers[0].gate
    assert isinstance(gate, Quantized)
    assert gate.bits == 4
    values = dense(gate)
    assert np.isfinite(values).all()
    assert 0.2 < values.std() * 128**0.5 < 2
