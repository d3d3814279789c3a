"""Keys are made once, for their owner alone; what they seal opens only as it was sealed."""

import base64
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from actors.base.keys import KEY_BYTES, Keyring


@pytest.fixture
def path(tmp_path):
    """Where the cluster key will lie."""
    return tmp_path / "home" / "cluster.key"


def test_a_new_key_file_is_its_owners_alone_and_stays(path):
    sealed = Keyring.load_or_create(path).seal(b"turns", b"session 1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Keyring.load_or_create(path).open(sealed, b"session 1") == b"turns"
    assert os.listdir(path.parent) == [path.name], "no draft is left"


def test_processes_that_start_together_share_one_key(path):
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(lambda _: Keyring.load_or_create(path), range(16)))
    sealed = rings[0].seal(b"data", b"")
    assert all(ring.open(sealed, b"") == b"data" for ring in rings)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_file_that_others_may_read_is_refused_with_what_to_do(path, mode):
    Keyring.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(InvalidArgument, match=f"mode {mode:04o}.*chmod 600"):
        Keyring.load_or_create(path)


@pytest.mark.parametrize("content", ["", "short\n", "not base64!\n", "AAAA\n"])
def test_a_broken_key_file_is_refused(path, content):
    path.parent.mkdir()
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(InvalidArgument, match="expected one or more base64 keys of 32 bytes"):
        Keyring.load(path)


def test_rotation_seals_with_the_newest_and_opens_with_all():
    old, new = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
    before = Keyring([old]).seal(b"data", b"c")
    both = Keyring([old, new])
    assert both.open(before, b"c") == b"data"
    after = both.seal(b"data", b"c")
    assert Keyring([new]).open(after, b"c") == b"data"
    with pytest.raises(InvalidArgument, match="not in the cluster's key file"):
        Keyring([old]).open(after, b"c")


def test_rotation_by_appending_a_line(path):
    sealed = Keyring.load_or_create(path).seal(b"data", b"")
    with path.open("ab") as file:
        file.write(base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
    ring = Keyring.load(path)
    assert ring.open(sealed, b"") == b"data"
    assert ring.seal(b"data", b"")[:4] != sealed[:4]


RING = Keyring([bytes(range(KEY_BYTES))])


@given(st.binary(max_size=200), st.binary(max_size=20), st.data())
def test_what_was_changed_does_not_open(data, context, draw):
    sealed = RING.seal(data, context)
    assert RING.open(sealed, context) == data
    assert data not in sealed or len(data) < 4
    at = draw.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[at] ^= draw.draw(st.integers(1, 255))
    for wrong in (bytes(changed), sealed[:at]):
        with pytest.raises(InvalidArgument):
            RING.open(wrong, context)
    with pytest.raises(InvalidArgument):
        RING.open(sealed, context + b"x")
