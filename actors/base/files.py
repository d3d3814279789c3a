"""Files that are there as a whole or not at all."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Write a file that is there as a whole or not at all, readable by its owner; it survives this process.

    `synced`: it survives the machine's end too.
    """
    draft = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        if synced:
            os.fsync(file.fileno())
    draft.replace(path)
