"""How much of a model's files is experts, told by the headers alone."""

import re
from pathlib import Path

from actors.worker.models.catalogue import locate
from actors.worker.models.gguf import read_gguf
from actors.worker.models.safetensors import SafetensorsTensors

_EXPERT = re.compile(r"\.experts\.\d+\.|\.switch_mlp\.|\.ffn_(gate|up|down)(_exps|\.\d+)\.")
"""In the name of an expert's tensor, or of many experts' (families.MixtureNames)."""


def expert_bytes(path_or_alias: str) -> int:
    """Bytes of a model's files that are experts. Raises as `load_model` does."""
    _, path = locate(path_or_alias)
    return sum(nbytes for name, nbytes in _sizes(path).items() if _EXPERT.search(name))


def _sizes(path: Path) -> dict[str, int]:
    if path.is_dir():
        return SafetensorsTensors(path, None).sizes
    return {name: tensor.nbytes for name, tensor in read_gguf(path).tensors.items()}
