"""The gateway on real ports, with callers who have keys; and nothing of a key in any log, whatever is done."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.gateway import api_keys
from tests.cluster.gateway.conftest import world as world


class Keys:
    """The key file of a test, and the keys in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.given: dict[str, str] = {}

    def create(self, name: str, *more: object) -> dict[str, str]:
        """Headers that show a new key."""
        self.given[name] = api_keys.create(self.path, name, *more)
        return {"authorization": f"Bearer {self.given[name]}"}

    @property
    def secrets(self) -> list[str]:
        """What no log may hold: keys, and their hashes."""
        return [*self.given.values(), *(key.digest for key in api_keys.read(self.path))]


@pytest.fixture
def keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Keys]:
    """Keys; when the test is over, nothing that was logged at any level holds one."""
    caplog.set_level(logging.DEBUG)
    found = Keys(tmp_path / "keys")
    yield found
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    text = "\n".join(f"{record.getMessage()}{record.exc_text or ''}" for record in records)
    assert not [secret for secret in found.secrets if secret in text]
