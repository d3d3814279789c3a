"""Where a cluster keeps things: state below its home, sockets and Ray's session below a short directory in /tmp."""

import hashlib
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from actors.base.errors import InvalidArgument
from cluster.logs import Form, as_asked

LONGEST_NAME = 48
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Home:
    """The directories of one cluster. `home` is absolute and survives; `run` holds sockets and dies with the boot.

    Unix socket paths end at about 100 characters and Ray adds 60 of its own, hence the short second place.
    """

    home: Path

    @property
    def run(self) -> Path:
        """Sockets, the state of the running cluster, Ray's session."""
        name = hashlib.sha256(str(self.home).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"russet-{os.getuid()}-{name}"

    @property
    def logs(self) -> Path:
        """Text logs of the processes that `russet up` starts."""
        return self.home / "logs"

    @property
    def state_file(self) -> Path:
        """JSON written by `russet up`: process ids, addresses, start time."""
        return self.run / "cluster.json"

    def socket(self, name: str) -> Path:
        """The unix socket of a service, e.g. router or worker-smollm2-0. Ids of models may be no names of files."""
        plain = len(name) <= LONGEST_NAME and not _UNSAFE.search(name)
        return self.run / f"{name if plain else hashlib.sha256(name.encode()).hexdigest()[:16]}.sock"

    def log_to(self, name: str, form: Form) -> None:
        """Write this process's log below `logs`, from INFO on; warnings also go to the terminal."""
        terminal, file = logging.StreamHandler(), logging.FileHandler(self.logs / name)
        terminal.setLevel(logging.WARNING)
        logging.basicConfig(level=logging.INFO, handlers=[terminal, file], force=True)
        as_asked(form)

    def create(self) -> "Home":
        """Make the directories, readable by their owner only."""
        for directory in (self.home, self.run, self.logs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = directory.lstat().st_uid  # of a link, not of what another made it point to
            if owner != os.getuid():
                raise InvalidArgument(
                    f"{directory} belongs to user {owner}, not to {os.getuid()}; remove it or set home"
                )
        return self
