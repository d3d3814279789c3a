"""Bad GGUF files are refused with what, the offending value and what to do; none makes the parser allocate or hang."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from actors.worker.models.gguf import read_gguf
from tests.oracles.gguf_writer import F32, Q4_1, gguf_bytes, string, write

VALUES = np.arange(64, dtype=np.float32)
TENSOR = ("a", (2, 32), F32, VALUES.tobytes())


def test_reads_back_what_was_written(tmp_path):
    metadata = {
        "text": "é",
        "number": 7,
        "real": 0.5,
        "flag": True,
        "words": ["a", "", "日本"],
        "kinds": np.array([1, 3], np.int32),
    }
    file = read_gguf(write(tmp_path / "m.gguf", metadata, [TENSOR, ("b", (32,), F32, VALUES[:32].tobytes())]))
    assert file.version == 3
    assert {key: file.metadata[key] for key in ("text", "number", "real", "flag", "words")} == {
        key: metadata[key] for key in ("text", "number", "real", "flag", "words")
    }
    assert file.metadata["kinds"].tolist() == [1, 3]
    tensor = file.tensors["b"]
    assert tensor.shape == (32,)
    np.testing.assert_array_equal(file.data[tensor.start : tensor.start + tensor.nbytes].view(np.float32), VALUES[:32])
    assert file.size == (tmp_path / "m.gguf").stat().st_size


def refused(tmp_path, raw: bytes) -> str:
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(InvalidArgument) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_empty_and_short_files(tmp_path):
    assert "0 bytes are too few" in refused(tmp_path, b"")
    assert "truncated" in refused(tmp_path, b"GGUF\x03")


def test_another_format(tmp_path):
    assert "b'PK" in refused(tmp_path, b"PK\x03\x04" + bytes(40))


@pytest.mark.parametrize("version", [0, 1, 4])
def test_other_versions(tmp_path, version):
    assert f"version {version}" in refused(tmp_path, gguf_bytes({}, version=version))


def test_big_endian(tmp_path):
    assert "big-endian" in refused(tmp_path, struct.pack(">4sIQQ", b"GGUF", 3, 0, 0))


@pytest.mark.parametrize(("tensors", "pairs"), [(2**63, 0), (0, 2**63), (10, 0), (0, 2**40)])
def test_counts_past_the_file(tmp_path, tensors, pairs):
    assert "are declared" in refused(tmp_path, struct.pack("<4sIQQ", b"GGUF", 3, tensors, pairs) + bytes(32))


def one_pair(key: str, raw: bytes) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + string(key) + raw


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (struct.pack("<IQ", 8, 2**62), "truncated"),
        (struct.pack("<IIQ", 9, 8, 2**40), "strings in 'k' are declared"),
        (struct.pack("<IIQ", 9, 5, 2**62), "values in 'k' are declared"),
        (struct.pack("<IIQQ", 9, 8, 1, 2**50), "past the end"),
        (struct.pack("<IIQQ", 9, 9, 1, 1), "array of value type 9"),
        (struct.pack("<IQ", 77, 1), "value type 77"),
        (struct.pack("<IQ2s", 8, 2, b"\xff\xfe"), "UTF-8"),
    ],
)
def test_corrupt_values(tmp_path, raw, said):
    assert said in refused(tmp_path, one_pair("k", raw))


def test_a_key_twice(tmp_path):
    pair = string("k") + struct.pack("<II", 4, 1)
    assert "'k' appears twice" in refused(tmp_path, struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + pair + pair)


@pytest.mark.parametrize("alignment", [0, 3, 48])
def test_alignment_must_be_a_power_of_two(tmp_path, alignment):
    assert f"alignment is {alignment}" in refused(tmp_path, gguf_bytes({"general.alignment": alignment}, [TENSOR]))


def test_truncated_data_says_how_much(tmp_path):
    whole = gguf_bytes({}, [TENSOR])
    message = refused(tmp_path, whole[:-1])
    assert f"the file at {len(whole) - 1}" in message
    assert "Download it again" in message


@pytest.mark.parametrize(("number", "name"), [(12, "Q4_K"), (14, "Q6_K"), (6, "Q5_0"), (199, "type 199")])
def test_other_types_are_refused_by_name(tmp_path, number, name):
    message = refused(tmp_path, gguf_bytes({}, [("t", (1, 256), number, bytes(256))]))
    assert name in message
    assert "Q4_0, Q4_1, Q8_0" in message


@pytest.mark.parametrize("shape", [(1, 31), (1, 0), (1,) * 5])
def test_shapes_that_cannot_be(tmp_path, shape):
    assert "'t'" in refused(tmp_path, gguf_bytes({}, [("t", shape, Q4_1, bytes(64))]))


def test_a_tensor_too_large_for_any_machine(tmp_path):
    assert "truncated" in refused(tmp_path, gguf_bytes({}, [("t", (2**62, 2**62), F32, bytes(64))]))


@given(data=st.data())
@settings(max_examples=300)
def test_damage_anywhere_is_an_error_or_harmless(data, tmp_path_factory):
    whole = gguf_bytes({"general.alignment": 32, "words": ["a", "bc"], "n": 3}, [TENSOR])
    raw = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("gguf") / "damaged.gguf"
    path.write_bytes(raw)
    try:
        file = read_gguf(path)
    except InvalidArgument:
        return
    assert all(tensor.start + tensor.nbytes <= len(raw) for tensor in file.tensors.values())
