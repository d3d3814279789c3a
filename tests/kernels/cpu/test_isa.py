"""Choosing the instruction set."""

import errno
import pathlib

import mlx.core as mx
import numpy as np
import pytest

from kernels import cpu

if not cpu.available():
    pytest.skip(cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext

needs_avx512 = pytest.mark.skipif("avx512vnni" not in _ext.supported_isas(), reason="AMX stands beside AVX-512 VNNI")


@pytest.fixture(autouse=True)
def restore():
    yield
    _ext.detect_isa()


def test_the_best_one_is_the_default():
    assert _ext.isa() == _ext.supported_isas()[0]
    assert _ext.supported_isas()[-1] == "scalar"


def test_forcing_and_returning():
    for name in _ext.supported_isas(emulated=True):
        _ext.set_isa(name)
        assert _ext.isa() == name
    _ext.set_isa("auto")
    assert _ext.isa() == _ext.supported_isas()[0]


def test_instructions_that_only_are_sooner_make_no_class():
    same = {"amx": "avx512vnni", "amx_emulated": "avx512vnni", "neon_dotprod": "neon", "neon_i8mm": "neon"}
    for name in _ext.supported_isas(emulated=True):
        _ext.set_isa(name)
        assert _ext.isa_class().split("-")[1] == same.get(name, name)


def test_an_unknown_one_is_refused_and_changes_nothing():
    before = _ext.isa()
    with pytest.raises(ValueError, match=r'"sse9" is not available here; accepted: auto, .*scalar$'):
        _ext.set_isa("sse9")
    assert _ext.isa() == before


def test_it_is_what_the_processor_reports():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("only Linux tells the flags in a file")
    flags = set(cpuinfo.read_text().split())
    assert ("avx2" in _ext.supported_isas()) == ({"avx2", "fma", "f16c"} <= flags)
    assert ("avx512vnni" in _ext.supported_isas()) == ({"avx512f", "avx512bw", "avx512_vnni"} <= flags)
    assert ("amx" in _ext.supported_isas() or bool(_ext.amx_refusal())) == ({"amx_tile", "amx_int8"} <= flags)


@needs_avx512
def test_emulated_tiles_are_never_offered():
    assert "amx_emulated" not in _ext.supported_isas()
    with pytest.raises(ValueError, match=r"accepted: auto, (amx, )?avx512vnni, avx2, scalar$"):
        _ext.set_isa("sse9")


@needs_avx512
def test_amx_is_taken_where_all_of_it_is_there():
    _ext.assume_amx(saved=True, refusal=0)
    assert _ext.isa() == _ext.supported_isas()[0] == "amx"
    assert _ext.isa_class() == "x86-avx512vnni"
    assert not _ext.amx_refusal()


@needs_avx512
@pytest.mark.parametrize(
    ("saved", "refusal", "said"),
    [
        (False, 0, "does not save AMX's tiles"),
        (True, errno.EPERM, "refuses AMX's tiles to this process: Operation not permitted"),
        (True, errno.ENOSPC, "refuses AMX's tiles to this process: No space left on device"),
    ],
)
def test_amx_denied_at_run_time_leaves_vnni_and_says_why(saved, refusal, said):
    _ext.assume_amx(saved, refusal)
    assert _ext.isa() == _ext.supported_isas()[0] == "avx512vnni"
    assert said in _ext.amx_refusal()
    with pytest.raises(ValueError, match=rf'"amx" is not available here \(.*{said}.*\); accepted: auto, avx512vnni'):
        _ext.set_isa("amx")
    ones = mx.ones((12, 32))
    assert np.array_equal(_ext.linear(ones, _ext.pack_dense(ones)), np.full((12, 12), 32))
