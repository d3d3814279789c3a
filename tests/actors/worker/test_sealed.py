"""A sealed unit opens as what it is, and as nothing else."""

import random

import pytest

from actors.base.errors import InvalidArgument
from actors.base.keys import SEAL_BYTES, Keyring
from actors.worker.sealed import PIECE, Sealer, sealed_bytes

KEY, OTHER = bytes(range(16)), bytes(16)
HEAD = 32


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(Keyring([b"k" * 32]), "revision isa fine")


def seal(sealer: Sealer, unit: bytes, key: bytes = KEY, form: str = "q8") -> bytes:
    return b"".join(sealer.seal(key, form, memoryview(unit)))


def opened(sealer: Sealer, sealed: bytes, length: int, key: bytes = KEY, form: str = "q8") -> bytes:
    into = bytearray(length)
    sealer.open(key, form, memoryview(sealed), memoryview(into))
    return bytes(into)


@pytest.mark.parametrize("length", [1, 40, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_it_opens_as_it_was_sealed(sealer: Sealer, length: int) -> None:
    unit = random.Random(length).randbytes(length)
    sealed = seal(sealer, unit)
    assert len(sealed) == sealed_bytes(length)
    assert length < 16 or unit[:16] not in sealed
    assert opened(sealer, sealed, length) == unit


def test_no_byte_can_be_changed_and_none_can_be_missing(sealer: Sealer) -> None:
    sealed = seal(sealer, b"u" * 40)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1 << at % 8
        for wrong in (bytes(changed), sealed[:at]):
            with pytest.raises(InvalidArgument):
                opened(sealer, wrong, 40)
    with pytest.raises(InvalidArgument):
        opened(sealer, sealed + b"\0", 40)


def test_pieces_stay_in_their_place_and_in_their_file(sealer: Sealer) -> None:
    unit = random.Random(1).randbytes(2 * PIECE)
    one, two = seal(sealer, unit), seal(sealer, unit)
    middle = HEAD + PIECE + SEAL_BYTES
    for wrong in (one[:HEAD] + one[middle:] + one[HEAD:middle], one[:middle] + two[middle:]):
        with pytest.raises(InvalidArgument, match="changed, or belongs to another"):
            opened(sealer, wrong, len(unit))


def test_it_is_bound_to_key_format_maker_and_cluster(sealer: Sealer) -> None:
    sealed = seal(sealer, b"u" * 40)
    for name in ("other isa fine", "revision isa mixed"):
        with pytest.raises(InvalidArgument):
            opened(Sealer(Keyring([b"k" * 32]), name), sealed, 40)
    with pytest.raises(InvalidArgument):
        opened(sealer, sealed, 40, key=OTHER)
    with pytest.raises(InvalidArgument):
        opened(sealer, sealed, 40, form="f16")
    with pytest.raises(InvalidArgument, match="not in the cluster's key file"):
        opened(Sealer(Keyring([b"x" * 32]), "revision isa fine"), sealed, 40)


def test_an_older_key_of_the_cluster_still_opens(sealer: Sealer) -> None:
    rotated = Sealer(Keyring([b"k" * 32, b"n" * 32]), "revision isa fine")
    assert opened(rotated, seal(sealer, b"u" * 40), 40) == b"u" * 40
