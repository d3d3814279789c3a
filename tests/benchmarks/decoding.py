"""The CPU decoder alone (no scheduler, no sampling) beside llama.cpp: quiet, at long context, beside a busy process."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from actors.worker.models import load_model
from actors.worker.models.catalogue import locate
from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Rounding
from tests.benchmarks import llama
from tests.benchmarks.forward import decode_seconds, prefill_seconds
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.llama import Llama
from tests.benchmarks.processes import spinning

MODEL = "smollm2-135m-instruct"
PROMPT, PREFILL = 128, 512
LONG_CONTEXT, LONG_ROWS = 4096, 8
HALF_BYTES = 2
Measure = Callable[[CpuDecoder], dict[Figure, list[float]]]
MeasureLlama = Callable[[Llama], Awaitable[dict[Figure, list[float]]]]


def beside(times: float | None) -> tuple[tuple[str, float], ...]:
    """What is asked of ours beside llama.cpp."""
    return () if times is None else ((llama.NAME, times),)


def decode_figure(rows: int, times: float | None, condition: str = "") -> Figure:
    """Decoding of `rows` rows, `times` as fast as llama.cpp."""
    return Figure(f"decode, {rows} row{'s' * (rows > 1)}{condition}", "tokens/s", ratios=beside(times), streams=rows)


DECODE = {rows: decode_figure(rows, times) for rows, times in ((1, 1.8), (8, 2.5), (16, 3.0), (32, 3.5))}
PREFILLED = Figure(f"prefill of {PREFILL}", "tokens/s", ratios=beside(3.0))
WEIGHTS = Figure("packed weights", "MB", higher_is_better=False)
LONG = decode_figure(LONG_ROWS, 2.0, f" of {LONG_CONTEXT:,} tokens")
LIMIT = Figure("  of what reading weights and KV once a step allows", "%")
BUSY = {rows: decode_figure(rows, 5.0, " beside a busy process") for rows in (1, 16)}
QUIET = {rows: decode_figure(rows, None, " in quiet") for rows in BUSY}
SHARE = {rows: Figure(f"  of our quiet speed, {rows} row{'s' * (rows > 1)}", "%", 25) for rows in BUSY}


def load(model: str, rounding: Rounding = "fine") -> CpuDecoder:
    """The decoder of a path or alias, with a thread a core."""
    _ext.set_threads(0)
    loaded = load_model(model)
    return CpuDecoder(loaded.spec, loaded.weights, rounding=rounding)


def decode_rate(decoder: CpuDecoder, rows: int, context: int = PROMPT, steps: int = llama.DECODED) -> float:
    """Tokens per second of all rows together, over as many steps as llama.cpp takes."""
    return rows / decode_seconds(decoder, rows, context, steps)


@asynccontextmanager
async def pair(
    options: Options, ours: Measure, theirs: MeasureLlama, roundings: Sequence[Rounding] = ("fine",)
) -> AsyncGenerator[Sequence[Contender], None]:
    """Our decoder, once for each rounding, and llama.cpp on the same file, each measured by a function of its own."""
    contenders = [_contender(load(MODEL, rounding), ours) for rounding in roundings]
    yield [*contenders, llama_contender(Llama(Path(options.llama), locate(MODEL)[1], _ext.threads()), theirs)]


def _contender(decoder: CpuDecoder, ours: Measure) -> Contender:
    async def measure() -> Samples:
        return ours(decoder)

    name = "Russet" if decoder.rounding == "fine" else f"Russet, {decoder.rounding}"
    return Contender(name, measure, f"the decoder alone, {decoder.isa_class}, {_ext.threads()} threads")


def llama_contender(programs: Llama, theirs: MeasureLlama) -> Contender:
    """A column of what `theirs` measures, or of nothing where the programs are not there."""
    missing = programs.missing()

    async def measure() -> Samples:
        return {} if missing else await theirs(programs)

    note = f"llama-batched-bench and llama-bench, -t {programs.threads}, KV in f16"
    return Contender(llama.NAME, measure, missing or note, peer=True)


def _ours(decoder: CpuDecoder) -> dict[Figure, list[float]]:
    samples = {figure: [decode_rate(decoder, rows)] for rows, figure in DECODE.items()}
    samples[PREFILLED] = [PREFILL / prefill_seconds(decoder, PREFILL)]
    return samples | {WEIGHTS: [decoder.weight_bytes / 1e6]}


async def _llama(programs: Llama) -> dict[Figure, list[float]]:
    rates = await programs.decode(PROMPT, list(DECODE))
    return {DECODE[rows]: [rate] for rows, rate in rates.items()} | {PREFILLED: [await programs.prefill(PREFILL)]}


def _ours_long(decoder: CpuDecoder) -> dict[Figure, list[float]]:
    rate = decode_rate(decoder, LONG_ROWS, LONG_CONTEXT)
    kv_bytes = LONG_ROWS * LONG_CONTEXT * decoder.spec.kv_values_per_token * HALF_BYTES
    least_s = (decoder.weight_bytes + kv_bytes) / _ext.read_bandwidth(256 << 20)
    return {LONG: [rate], LIMIT: [100 * least_s * rate / LONG_ROWS]}


async def _llama_long(programs: Llama) -> dict[Figure, list[float]]:
    return {LONG: [(await programs.decode(LONG_CONTEXT, [LONG_ROWS]))[LONG_ROWS]]}


def _ours_busy(decoder: CpuDecoder) -> dict[Figure, list[float]]:
    quiet = {rows: decode_rate(decoder, rows) for rows in BUSY}
    with spinning():
        busy = {rows: decode_rate(decoder, rows) for rows in BUSY}
    samples: dict[Figure, list[float]] = {}
    for rows in BUSY:
        samples[BUSY[rows]], samples[QUIET[rows]] = [busy[rows]], [quiet[rows]]
        samples[SHARE[rows]] = [100 * busy[rows] / quiet[rows]]
    return samples


async def _llama_busy(programs: Llama) -> dict[Figure, list[float]]:
    quiet = await programs.decode(PROMPT, list(BUSY))
    with spinning():
        busy = await programs.decode(PROMPT, list(BUSY))
    return {BUSY[rows]: [rate] for rows, rate in busy.items()} | {QUIET[rows]: [rate] for rows, rate in quiet.items()}


KERNELS = Part("kernels", "The decoder alone", lambda options: pair(options, _ours, _llama, ("fine", "mixed")))
LONG_CONTEXTS = Part("long", "The decoder at long context", lambda options: pair(options, _ours_long, _llama_long))
BUSY_MACHINE = Part(
    "busy",
    "The decoder beside a process that keeps a core busy",
    lambda options: pair(options, _ours_busy, _llama_busy),
)
