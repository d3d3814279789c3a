"""Which interpreter runs a model: chosen once per model, by the device and by what is installed."""

import logging
from collections.abc import Sequence

import mlx.core as mx

from kernels import cpu
from kernels.decoder import Decoder, DecoderSpec, DecoderWeights, ExpertMemory, Rounding
from kernels.interpreter import MlxDecoder

log = logging.getLogger(__name__)

BACKENDS = ("auto", "cpu", "mlx")


def build_decoder(
    spec: DecoderSpec,
    weights: DecoderWeights,
    backend: str = "auto",
    threads: int = 0,
    dtype: mx.Dtype | None = None,
    rounding: Rounding = "fine",
    cpus: Sequence[int] = (),
    awake_us: int = 100,
    isa: str = "auto",
    experts: ExpertMemory | None = None,
) -> Decoder:
    """The decoder of a model.

    backend: "mlx" interprets it with MLX operations on the default device; "cpu" is the compiled C++ decoder; "auto" is
    MLX on a GPU, else C++ where it is installed and supports the model, else MLX on the CPU with a warning.
    threads: of the C++ kernels; 0 is one for each of `cpus`, or where there are none one per processor. They belong to
    the calling thread, which works among them and is the one to run the decoder, and end with it.
    cpus: processors that these threads are bound to, one each, the caller on the first; none leaves it to the system.
    awake_us: how long a thread without work waits awake for more before it sleeps, microseconds.
    dtype: of activations and KV in MLX; None is float32 on a CPU, bfloat16 on a GPU. The C++ decoder has its own
    numbers, so a dtype makes "auto" choose MLX.
    rounding: of the activations that quantized weights meet in the C++ kernels (kernels/decoder.py: Rounding); MLX
    rounds none and refuses "mixed".
    isa: instruction set of the C++ kernels from now on, in the whole process: "auto" is the fastest one here; others by
    name (kernels/cpu/src/isa.h).
    experts: keeps those of a mixture of experts on disk, but for a budget; the C++ decoder alone does. None keeps all
    in memory.
    Raises ValueError for an unknown backend, for "cpu" where it cannot run the model or a dtype is given, for threads,
    cpus and an instruction set that this machine does not offer, for cpus, an instruction set, "mixed" or experts on
    disk where MLX runs the model, and for experts as CpuDecoder does.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; accepted: {', '.join(BACKENDS)}")
    if threads < 0:
        raise ValueError(f"threads is {threads}; accepted: 0 (one per processor) or more")
    on_gpu = mx.default_device().type == mx.gpu
    if backend == "mlx" or (backend == "auto" and (on_gpu or dtype is not None)):
        _refuse_for_mlx(rounding, cpus, isa, experts)
        return MlxDecoder(spec, weights, dtype)
    if dtype is not None:
        raise ValueError(f"the CPU decoder takes no dtype, got {dtype}; backend 'mlx' does")
    reason = _why_not_cpu(spec, weights)
    if reason is None:
        from kernels.cpu.decoder import CpuDecoder  # needs the extension

        cpu._ext.set_isa(isa)
        log.info("the compiled kernels use the instruction set %s", cpu._ext.isa())
        if refusal := cpu._ext.amx_refusal():
            log.warning("this processor has AMX, but %s: long prompts and large batches take longer", refusal)
        cpu._ext.own_threads(threads, list(cpus), awake_us)
        return CpuDecoder(spec, weights, rounding=rounding, experts=experts)
    if backend == "cpu":
        raise ValueError(f"the CPU decoder cannot run this model: {reason}; backend 'mlx' can, slowly")
    _refuse_for_mlx(rounding, cpus, isa, experts)
    log.warning(
        "this model runs on stock MLX operations on the CPU, about 10 tokens/s in all for 135M parameters where the "
        "compiled kernels do several hundred: %s",
        reason,
    )
    return MlxDecoder(spec, weights)


def _refuse_for_mlx(rounding: Rounding, cpus: Sequence[int], isa: str, experts: ExpertMemory | None) -> None:
    if experts is not None:
        raise ValueError(f"memory for experts is {experts.nbytes} bytes; where MLX runs the model, all are in memory")
    if rounding != "fine":
        raise ValueError(f'rounding is {rounding!r}, which MLX operations do not do; accepted with them: "fine"')
    if cpus:
        raise ValueError(f"cpus are {list(cpus)}; accepted: none, where MLX runs the model: its threads are its own")
    if isa != "auto":
        raise ValueError(f'instruction set is {isa!r}; accepted: "auto", where MLX runs the model: it chooses its own')


def _why_not_cpu(spec: DecoderSpec, weights: DecoderWeights) -> str | None:
    if not cpu.available():
        return cpu.reason()
    from kernels.cpu.decoder import supports  # needs the extension

    return supports(spec, weights)
