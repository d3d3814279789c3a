"""The whole system over HTTP, beside mlx-lm's server on the same weights."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from actors.base.errors import RussetError
from cluster.bench import Load, Result, run
from tests.benchmarks import peers
from tests.benchmarks.exposed_gap import gap_totals, mean_gap_us
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.processes import russet_serve

PROMPT, OUTPUT = 128, 64
PAUSE_S = 0.5
"""Before each request to an idle server: its work after the request before, records and their embeddings, is done."""
ONE = Figure(f"one stream of {PROMPT} + {OUTPUT}, output", "tokens/s", 60)
SIXTEEN = Figure(f"16 streams of {PROMPT} + {OUTPUT}, output", "tokens/s", 100)
FIRST = Figure(f"first token of a {PROMPT}-token prompt, idle", "ms", 500, higher_is_better=False)
PER_TOKEN = Figure("time per output token, 16 streams", "ms", higher_is_better=False)
GAP = Figure("exposed gap between steps, 16 streams", "us", higher_is_better=False)


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


def _together(result: Result) -> dict[Figure, list[float]]:
    median = result.as_dict()["time_per_output_token_ms"]["p50"]
    return {SIXTEEN: [result.output_tokens_per_s], PER_TOKEN: [median] if median is not None else []}


def _russet(url: str, quick: bool) -> Callable[[], Awaitable[Samples]]:
    async def measure() -> Samples:
        samples = _single(await _load(url, Load(1, 2 if quick else 5, PROMPT, OUTPUT, pause_s=PAUSE_S)))
        for _ in range(1 if quick else 3):
            before = await gap_totals(url)
            for figure, values in _together(await _load(url, Load(16, 16, PROMPT, OUTPUT))).items():
                samples.setdefault(figure, []).extend(values)
            samples.setdefault(GAP, []).extend(mean_gap_us(before, await gap_totals(url)))
        return samples

    return measure


def _peer(url: str, peer: peers.Peer) -> Callable[[], Awaitable[Samples]]:
    """A round of few requests: stock MLX computes about ten tokens a second, prompts included."""

    async def measure() -> Samples:
        one, some = (
            Load(streams, streams, PROMPT, OUTPUT, model=peers.MODEL_NAME, body={}, warm_up_tokens=0)
            for streams in (1, peer.streams)
        )
        return _single(await _load(url, one)) | _together(await _load(url, some))

    return measure


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    async with AsyncExitStack() as running:
        if options.url:
            url, how = options.url, f"the cluster at {options.url}"
        else:
            url, how = await running.enter_async_context(russet_serve()), "`russet serve`, default settings"
        contenders = [Contender("Russet", _russet(url, options.quick), how)]
        if not options.quick:
            for peer in peers.PEERS:
                if (missing := peer.missing()) is None:
                    address = await running.enter_async_context(peer.server())
                    contenders.append(Contender(peer.name, _peer(address, peer), peer.note, peer=True))
                else:
                    contenders.append(Contender(peer.name, _nothing, missing, peer=True))
        yield contenders


async def _nothing() -> Samples:
    return {}


PART = Part("serving", "The whole system over HTTP", _contenders)
