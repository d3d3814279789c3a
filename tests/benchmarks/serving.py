"""The whole system over HTTP, beside llama.cpp's server on the same file and mlx-lm's on the same weights.

One load generator, in this process, drives all of them in turn; it takes about 50 us of one core per message.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

from actors.base.errors import RussetError
from actors.worker.models.catalogue import locate
from cluster.bench import Load, Result, run
from kernels.cpu import _ext
from tests.benchmarks import llama, peers
from tests.benchmarks.decoding import MODEL
from tests.benchmarks.exposed_gap import gap_totals, mean_gap_us
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.llama import Llama
from tests.benchmarks.processes import peak_memory_mb, russet_serve

PROMPT, OUTPUT = 128, 64
LONG_PROMPT = 512
PAUSE_S = 0.5
"""Before each request to an idle server: its work after the request before, records and their embeddings, is done."""
SLOTS, SLOT_TOKENS = 32, 768
"""Rows of llama-server, and tokens for each."""


def _closed_loop(clients: int, target: float | None, *ratios: tuple[str, float]) -> Figure:
    name = f"{clients} streams of {PROMPT} + {OUTPUT}, output"
    return Figure(name, "tokens/s", target, ratios=ratios, streams=clients)


ONE = Figure(f"one stream of {PROMPT} + {OUTPUT}, output", "tokens/s", 60, ratios=((llama.NAME, 1.4),), streams=1)
LOOPS = {
    8: _closed_loop(8, None, (llama.NAME, 2.0)),
    16: _closed_loop(16, 100, (llama.NAME, 2.3), (peers.STOCK, 100), (peers.WITH_OPENBLAS, 8)),
    32: _closed_loop(32, None, (llama.NAME, 2.5)),
}
FIRST = Figure(f"first token of a {PROMPT}-token prompt, idle", "ms", 500, higher_is_better=False)
FIRST_LONG = Figure(
    f"first token of a {LONG_PROMPT}-token prompt, idle", "ms", higher_is_better=False, ratios=((llama.NAME, 2.2),)
)
PER_TOKEN = Figure("time per output token, 16 streams", "ms", higher_is_better=False)
GAP = Figure("exposed gap between steps, 16 streams", "us", higher_is_better=False)
MEMORY = Figure("peak memory", "MB", higher_is_better=False)


async def _load(url: str, load: Load) -> Result:
    result = await run(url, load)
    if len(result.good) < load.requests:
        raise RussetError(f"{url} failed requests, so there is no figure: {result.as_dict()['errors']}")
    return result


def _single(result: Result) -> dict[Figure, list[float]]:
    return {
        ONE: [stream.output_tokens / stream.total_s for stream in result.good],
        FIRST: [1e3 * stream.arrivals[0] for stream in result.good if stream.arrivals],
    }


def _per_token(result: Result) -> dict[Figure, list[float]]:
    median = result.as_dict()["time_per_output_token_ms"]["p50"]
    return {PER_TOKEN: [median] if median is not None else []}


async def _alone(url: str, quick: bool) -> dict[Figure, list[float]]:
    """One client, which rests before each request: short prompts with answers, then long prompts."""
    requests = 2 if quick else 5
    short = await _load(url, Load(1, requests, PROMPT, OUTPUT, pause_s=PAUSE_S))
    long = await _load(url, Load(1, requests, LONG_PROMPT, 1, pause_s=PAUSE_S))
    return _single(short) | {FIRST_LONG: [1e3 * stream.arrivals[0] for stream in long.good if stream.arrivals]}


async def _loop(url: str, clients: int, quick: bool) -> dict[Figure, list[float]]:
    """`clients` at once, each with one request after the other."""
    result = await _load(url, Load(clients, clients if quick else 2 * clients, PROMPT, OUTPUT))
    return {LOOPS[clients]: [result.output_tokens_per_s]} | (_per_token(result) if clients == 16 else {})


def _russet(url: str, process: psutil.Process | None, quick: bool) -> Callable[[], Awaitable[Samples]]:
    async def measure() -> Samples:
        samples = await _alone(url, quick)
        for clients in LOOPS:
            before = await gap_totals(url)
            samples |= await _loop(url, clients, quick)
            if clients == 16:
                samples[GAP] = mean_gap_us(before, await gap_totals(url))
        return samples | {MEMORY: peak_memory_mb(process) if process else []}

    return measure


def _llama(url: str, process: psutil.Process, quick: bool) -> Callable[[], Awaitable[Samples]]:
    async def measure() -> Samples:
        samples = await _alone(url, quick)
        for clients in LOOPS:
            samples |= await _loop(url, clients, quick)
        return samples | {MEMORY: peak_memory_mb(process)}

    return measure


def _mlx_lm(url: str, peer: peers.Peer) -> Callable[[], Awaitable[Samples]]:
    """Few requests: stock MLX computes about ten tokens a second, prompts included."""

    async def measure() -> Samples:
        one, some = (
            Load(streams, streams, PROMPT, OUTPUT, model=peers.MODEL_NAME, body={}, warm_up_tokens=0)
            for streams in (1, peer.streams)
        )
        together = await _load(url, some)
        return _single(await _load(url, one)) | {LOOPS[16]: [together.output_tokens_per_s]} | _per_token(together)

    return measure


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    async with AsyncExitStack() as running:
        if options.url:
            url, process, how = options.url, None, f"the cluster at {options.url}"
        else:
            url, process = await running.enter_async_context(russet_serve(models__0__speculation="off"))
            how = "`russet serve`, a token a pass as its peers, all services in one process"
        contenders = [Contender("Russet", _russet(url, process, options.quick), how)]
        contenders.append(await _llama_server(options, running))
        if not options.quick:
            for peer in peers.PEERS:
                contenders.append(await _mlx_lm_server(peer, running))
        yield contenders


async def _llama_server(options: Options, running: AsyncExitStack) -> Contender:
    programs = Llama(Path(options.llama), locate(MODEL)[1], _ext.threads())
    if (missing := programs.missing()) is not None:
        return Contender(llama.NAME, _nothing, missing, peer=True)
    url, process = await running.enter_async_context(programs.server(SLOTS, SLOT_TOKENS))
    note = f"llama-server, -t {programs.threads}, {SLOTS} slots of {SLOT_TOKENS} tokens, continuous batching"
    return Contender(llama.NAME, _llama(url, process, options.quick), note, peer=True)


async def _mlx_lm_server(peer: peers.Peer, running: AsyncExitStack) -> Contender:
    if (missing := peer.missing()) is not None:
        return Contender(peer.name, _nothing, missing, peer=True)
    url = await running.enter_async_context(peer.server())
    return Contender(peer.name, _mlx_lm(url, peer), peer.note, peer=True, once=peer.name == peers.STOCK)


async def _nothing() -> Samples:
    return {}


PART = Part("serving", "The whole system over HTTP", _contenders)
