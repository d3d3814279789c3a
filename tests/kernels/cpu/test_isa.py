"""Choosing the instruction set."""

import pathlib

import pytest

from kernels import cpu

if not cpu.available():
    pytest.skip(cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext


@pytest.fixture(autouse=True)
def restore():
    yield
    _ext.set_isa("auto")


def test_the_best_one_is_the_default():
    assert _ext.isa() == _ext.supported_isas()[0]
    assert _ext.supported_isas()[-1] == "scalar"


def test_forcing_and_returning():
    for name in _ext.supported_isas():
        _ext.set_isa(name)
        assert _ext.isa() == name
        assert _ext.isa_class().endswith("-" + name)
    _ext.set_isa("auto")
    assert _ext.isa() == _ext.supported_isas()[0]


def test_an_unknown_one_is_refused_and_changes_nothing():
    before = _ext.isa()
    with pytest.raises(ValueError, match=r'"sse9" is not available here; accepted: auto, .*scalar'):
        _ext.set_isa("sse9")
    assert _ext.isa() == before


def test_it_is_what_the_processor_reports():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("only Linux tells the flags in a file")
    flags = set(cpuinfo.read_text().split())
    assert ("avx2" in _ext.supported_isas()) == ({"avx2", "fma", "f16c"} <= flags)
    assert ("avx512vnni" in _ext.supported_isas()) == ({"avx512f", "avx512bw", "avx512_vnni"} <= flags)
