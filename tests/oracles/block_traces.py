"""Traces of requests as blocks of tokens, and how often an ideal LRU cache would have had their blocks.

A block is named by a number; what it is worth depends on all blocks before it, as with KV. Requests are served one
after the other.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Request(NamedTuple):
    """Blocks of prompt and answer."""

    prompt: list[int]
    answer: list[int]

    @property
    def blocks(self) -> list[int]:
        """All that is in the cache when it has been served."""
        return self.prompt + self.answer


Trace = list[Request]


class _Source:
    """Blocks that nobody else has."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self._next = 0

    def __call__(self, count: int) -> list[int]:
        self._next += count
        return list(range(self._next - count, self._next))

    def between(self, low: int, high: int) -> list[int]:
        return self(self.draw.randint(low, high))


def chat(requests: int, seed: int = 0) -> Trace:
    """One system prompt; a dozen conversations at a time, each turn with all that was said before."""
    new = _Source(seed)
    system = new(60)
    open_now: list[list[int]] = []
    trace: Trace = []
    for _ in range(requests):
        if len(open_now) < 12 or new.draw.random() < 0.15:
            open_now = [*open_now, list(system)][-12:]
        said = new.draw.choice(open_now)
        said += new.between(1, 2)
        answer = new.between(2, 8)
        trace.append(Request(list(said), answer))
        said += answer
    return trace


def agents(requests: int, seed: int = 0) -> Trace:
    """Three tool descriptions; tasks that go on after each tool's result, or again from an earlier step."""
    new = _Source(seed)
    tools = [new(40) for _ in range(3)]
    steps: list[list[int]] = []
    trace: Trace = []
    for _ in range(requests):
        if not steps or new.draw.random() < 0.08:
            steps = [*steps, new.draw.choice(tools) + new.between(1, 4)][-200:]
        # Mostly the newest steps, now and then a branch from long ago.
        place = min(int(new.draw.expovariate(0.2)), len(steps) - 1)
        prompt = steps[-1 - place] + new.between(1, 6)
        answer = new.between(1, 3)
        trace.append(Request(prompt, answer))
        steps = [*steps, prompt + answer][-200:]
        if len(prompt) > 250:
            steps = [step for step in steps if len(step) < 150]
    return trace


def retrieval(requests: int, seed: int = 0) -> Trace:
    """A question about one of 40 documents, some asked about far more often than others."""
    new = _Source(seed)
    system = new(20)
    documents = [new.between(20, 60) for _ in range(40)]
    popularity = [1 / (rank + 1) for rank in range(len(documents))]
    return [
        Request(system + new.draw.choices(documents, popularity)[0] + new(1), new.between(1, 3))
        for _ in range(requests)
    ]


def scan(requests: int, seed: int = 0) -> Trace:
    """Prompts that come round and round, more than fit (LRU's worst), among others that never come again."""
    new = _Source(seed)
    around = [new(20) for _ in range(30)]
    trace: Trace = []
    for number in range(requests):
        prompt = new.between(5, 50) if number % 4 == 3 else around[number % len(around)]
        trace.append(Request(list(prompt), []))
    return trace


def mixed(requests: int, seed: int = 0) -> Trace:
    """Half chat, and the others beside it."""
    new = _Source(seed)
    kinds: list[Callable[[int, int], Trace]] = [chat, chat, agents, retrieval]
    parts = [
        [_shifted(request, 10_000_000 * place) for request in kind(requests // len(kinds), seed + place)]
        for place, kind in enumerate(kinds)
    ]
    trace: Trace = []
    while any(parts):
        trace.append(new.draw.choice([part for part in parts if part]).pop(0))
    return trace


SHAPES: dict[str, Callable[[int], Trace]] = {
    "chat": chat,
    "agents": agents,
    "retrieval": retrieval,
    "scan": scan,
    "mixed": mixed,
}


def capacities(trace: Trace) -> dict[str, int]:
    """Pages of four caches: as many as there are different blocks, a half, a fifth and a twentieth of that.

    At least as many as the longest request has, and one more for a page that has to be copied.
    """
    different = len({key for request in trace for key in keys(request.blocks)})
    least = max(len(request.blocks) for request in trace) + 1
    shares = {"unbounded": 1, "1/2": 2, "1/5": 5, "1/20": 20}
    return {name: max(least, different // share + (share == 1)) for name, share in shares.items()}


def keys(blocks: Sequence[int]) -> Iterator[int]:
    """What each block is known by: a hash of it and all before it."""
    before = 0
    for block in blocks:
        before = hash((before, block))
        yield before


def ideal_hits(trace: Trace, capacity: int) -> float:
    """Share of the prompts' blocks that an LRU cache over `capacity` blocks has, a block only with all before it.

    The blocks of a request are used from the last to the first, so that of two used together the one that is worth
    nothing without the other goes first; the other way round an LRU cache does worse.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    hits = asked = 0
    for request in trace:
        names = list(keys(request.blocks))
        found = next((place for place, name in enumerate(names) if name not in cache), len(names))
        hits += min(found, len(request.prompt))
        asked += len(request.prompt)
        for name in reversed(names):
            cache[name] = None
            cache.move_to_end(name)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits / asked


def _shifted(request: Request, offset: int) -> Request:
    return Request([block + offset for block in request.prompt], [block + offset for block in request.answer])
