"""Which decoder a model gets, and what is said where it is a slow one."""

import errno
import logging
import os

import mlx.core as mx
import numpy as np
import pytest

from kernels import cpu, ops
from kernels.backend import build_decoder
from kernels.decoder import Batch
from kernels.interpreter import MlxDecoder
from kernels.sampling import SampleBatch
from tests.oracles import float64, random_decoder

SPEC, WEIGHTS = random_decoder.model()
needs_cpu = pytest.mark.skipif(not cpu.available(), reason=cpu.reason() or "kernels.cpu is here")
on_cpu = pytest.mark.skipif(mx.default_device().type == mx.gpu, reason="the default device is a GPU")


def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available", lambda: False)
    monkeypatch.setattr(cpu, "reason", lambda: "no compiler was there")


def test_mlx_is_mlx() -> None:
    assert isinstance(build_decoder(SPEC, WEIGHTS, backend="mlx"), MlxDecoder)


@on_cpu
@needs_cpu
@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_the_compiled_decoder_serves_a_cpu(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    decoder = build_decoder(SPEC, WEIGHTS, backend=backend)
    assert decoder.isa_class != "mlx-cpu"
    assert not caplog.records


@on_cpu
@needs_cpu
def test_both_decoders_compute_the_model() -> None:
    tokens = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int32)
    batch = Batch(tokens, np.array([0, 8], np.int32), np.zeros(1, np.int32), np.array([[1, 0]], np.int32), tokens * 0)
    batch = batch._replace(logits_at=np.arange(8, dtype=np.int32))
    want = float64.decoder_logits(SPEC, WEIGHTS, tokens.tolist())
    for backend, tolerance in (("cpu", 0.02), ("mlx", 2e-5)):  # the CPU decoder's K and V are half precision
        decoder = build_decoder(SPEC, WEIGHTS, backend=backend)
        got = decoder.forward(batch, decoder.allocate_kv(2, 4))
        np.testing.assert_allclose(np.array(got), want, atol=tolerance)


@on_cpu
def test_without_the_extension_auto_warns_how_slow_it_is_and_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_extension(monkeypatch)
    with caplog.at_level(logging.WARNING):
        decoder = build_decoder(SPEC, WEIGHTS)
    assert decoder.isa_class == "mlx-cpu"
    assert "about 10 tokens/s" in caplog.text
    assert "no compiler was there" in caplog.text


@on_cpu
def test_without_the_extension_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    without_extension(monkeypatch)
    with pytest.raises(ValueError, match="no compiler was there"):
        build_decoder(SPEC, WEIGHTS, backend="cpu")


def test_a_dtype_is_mlx() -> None:
    decoder = build_decoder(SPEC, WEIGHTS, dtype=mx.bfloat16)
    assert isinstance(decoder, MlxDecoder)
    assert decoder.allocate_kv(1, 4).k[0].dtype == mx.bfloat16
    with pytest.raises(ValueError, match="takes no dtype"):
        build_decoder(SPEC, WEIGHTS, backend="cpu", dtype=mx.bfloat16)


@pytest.mark.parametrize("backend", ["metal", "", "CPU"])
def test_an_unknown_backend_is_named(backend: str) -> None:
    with pytest.raises(ValueError, match=f"unknown backend '{backend}'; accepted: auto, cpu, mlx"):
        build_decoder(SPEC, WEIGHTS, backend=backend)


@needs_cpu
def test_rounding_is_chosen_and_named_in_the_isa_class() -> None:
    fine, mixed = (build_decoder(SPEC, WEIGHTS, backend="cpu", rounding=rounding) for rounding in ("fine", "mixed"))
    assert mixed.isa_class == f"{fine.isa_class}-mixed"


def test_rounding_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ValueError, match='MLX operations do not do; accepted with them: "fine"'):
        build_decoder(SPEC, WEIGHTS, backend="mlx", rounding="mixed")


@needs_cpu
def test_an_unknown_rounding_is_named() -> None:
    with pytest.raises(ValueError, match="'coarse'; accepted: fine, mixed"):
        build_decoder(SPEC, WEIGHTS, backend="cpu", rounding="coarse")  # pyright: ignore[reportArgumentType]


def test_negative_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads is -1"):
        build_decoder(SPEC, WEIGHTS, threads=-1)


@needs_cpu
def test_the_instruction_set_is_chosen_and_an_unsupported_one_is_refused() -> None:
    try:
        assert build_decoder(SPEC, WEIGHTS, backend="cpu", isa="scalar").isa_class.split("-")[1] == "scalar"
        with pytest.raises(ValueError, match=r'"mmx" is not available here; accepted: auto, .*scalar'):
            build_decoder(SPEC, WEIGHTS, backend="cpu", isa="mmx")
    finally:
        fastest = build_decoder(SPEC, WEIGHTS, backend="cpu")
    assert cpu._ext.isa() == cpu._ext.supported_isas()[0]
    assert fastest.isa_class == cpu._ext.isa_class()


@needs_cpu
def test_amx_that_the_system_denies_is_a_warning_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    cpu._ext.assume_amx(saved=True, refusal=errno.EPERM)
    try:
        build_decoder(SPEC, WEIGHTS, backend="cpu")
        assert cpu._ext.isa() != "amx"
    finally:
        cpu._ext.detect_isa()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "has AMX, but" in caplog.text


def test_mlx_uses_its_own_instruction_set() -> None:
    with pytest.raises(ValueError, match="instruction set is 'scalar'; accepted: \"auto\", where MLX"):
        build_decoder(SPEC, WEIGHTS, backend="mlx", isa="scalar")


def test_mlx_binds_no_threads() -> None:
    with pytest.raises(ValueError, match=r"cpus are \[0\]; accepted: none, where MLX"):
        build_decoder(SPEC, WEIGHTS, backend="mlx", cpus=[0])


def sampling_of(rows: int) -> SampleBatch:
    floats, ints = np.ones(rows, np.float32), np.zeros(rows, np.int32)
    starts, none = np.zeros(rows + 1, np.int32), np.zeros(0, np.int32)
    seeds, positions = np.arange(rows, dtype=np.uint64), np.full(rows, 8, np.int32)
    return SampleBatch(
        floats, ints, floats, 0 * floats, floats, 0 * floats, 0 * floats, seeds, positions,
        starts, none, none, starts, none, np.zeros(0, np.float32),
    )  # fmt: skip


@on_cpu
@needs_cpu
@pytest.mark.parametrize("backend", ["cpu", "mlx"])
def test_a_draw_is_a_forward_and_a_sample_and_rings(backend: str) -> None:
    decoder = build_decoder(SPEC, WEIGHTS, backend=backend)
    tokens = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int32)
    batch = Batch(
        tokens, np.array([0, 8], np.int32), np.zeros(1, np.int32), np.array([[1, 0]], np.int32),
        np.arange(8, dtype=np.int32),
    )  # fmt: skip
    wanted = ops.sample(decoder.forward(batch, decoder.allocate_kv(2, 4)), sampling_of(8))
    heard, bell = os.pipe()
    os.set_blocking(heard, False)
    for _ in range(2):
        drawn = decoder.draw(batch, sampling_of(8), decoder.allocate_kv(2, 4), bell)
        np.testing.assert_array_equal(drawn, wanted)
        assert len(os.read(heard, 100)) == 8
    nothing = batch._replace(logits_at=np.zeros(0, np.int32))
    assert len(decoder.draw(nothing, sampling_of(0), decoder.allocate_kv(2, 4))) == 0
    with pytest.raises(BlockingIOError):
        os.read(heard, 100)
    os.close(heard)
    os.close(bell)


@needs_cpu
def test_columns_of_another_type_are_named() -> None:
    decoder = build_decoder(SPEC, WEIGHTS, backend="cpu")
    one, zero = np.array([1], np.int32), np.zeros(1, np.int32)
    batch = Batch(one, np.array([0, 1], np.int32), zero, zero[None], zero)
    kv = decoder.allocate_kv(1, 4)
    with pytest.raises(TypeError, match="top_p must be a contiguous array"):
        decoder.draw(batch, sampling_of(1)._replace(top_p=np.ones(1, np.float64)), kv)
    with pytest.raises(TypeError, match="lengths must be a contiguous array"):
        decoder.draw(batch._replace(lengths=zero.astype(np.int64)), sampling_of(1), kv)


def test_a_slab_of_another_backend_is_refused() -> None:
    class Foreign:
        pages, page_size, nbytes = 1, 4, 0

        def copy_pages(self, source: object, target: object) -> None:
            raise AssertionError

    none = np.zeros(0, np.int32)
    batch = Batch(none, np.zeros(1, np.int32), none, np.zeros((0, 0), np.int32), none)
    with pytest.raises(ValueError, match="its own allocate_kv, got Foreign"):
        MlxDecoder(SPEC, WEIGHTS).forward(batch, Foreign())
