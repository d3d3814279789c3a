"""Whether and where a worker keeps KV on disk."""

import contextlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from actors.base.errors import Conflict
from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.worker.config import WorkerConfig
from actors.worker.keeper import Keeper
from actors.worker.kept import Kept
from actors.worker.sealed import Sealer
from kernels.decoder import Kv

log = logging.getLogger(__name__)

MOST_DIRECTORIES = 64
"""More replicas of a model on one machine than this keep nothing."""


def keeper_for(config: WorkerConfig, kv: Kv, revision: str, isa_class: str, telemetry: Telemetry) -> Keeper | None:
    """What keeps units of `kv`; None where nothing is to be kept, or the disk does not allow it (a warning says so).

    Values depend on the model's revision, the instruction set and the rounding: units of others do not open. Raises
    InvalidArgument where the cluster key cannot be used.
    """
    if not config.kv_disk_bytes or config.kv_disk_directory is None or config.key_file is None:
        return None
    sealer = Sealer(Keyring.load_or_create(config.key_file), f"{revision} {isa_class} {config.rounding}")
    name = re.sub(r"[^a-zA-Z0-9-]", "_", f"{revision[:16]}-{isa_class}-{config.rounding}")
    unit_bytes = {tier.format: tier.unit_bytes for tier in kv.tiers}
    try:
        kept = first_free(config.kv_disk_directory / name, sealer, unit_bytes, config.kv_disk_bytes)
    except (OSError, Conflict) as failure:
        log.warning("no KV is kept on disk: %s", failure)
        return None
    if kept.budget < kept.largest:
        kept.close()
        log.warning("no KV is kept on disk: there is room for %d bytes, and a unit takes %d", kept.budget, kept.largest)
        return None
    log.info("KV on disk: %d bytes in %s, of %d at most", kept.nbytes, kept.directory, kept.budget)
    return Keeper(kept, kv, telemetry)


def first_free(directory: Path, sealer: Sealer, unit_bytes: Mapping[str, int], budget: int) -> Kept:
    """The first of DIRECTORY/0, DIRECTORY/1, ... that no process has: replicas of a model take one each.

    Which one does not matter, as a worker tells its scheduler what it keeps. Raises Conflict where all are taken.
    """
    for number in range(MOST_DIRECTORIES):
        with contextlib.suppress(Conflict):
            return Kept(directory / str(number), sealer, unit_bytes, budget)
    raise Conflict(f"{MOST_DIRECTORIES} processes use {directory} already")
