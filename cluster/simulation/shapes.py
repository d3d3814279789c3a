"""Traffic made in a shape: conversations that share system prompts and grow turn by turn, and long documents between.

Conversations begin by a Poisson process, in bursts (a gamma renewal process with a coefficient of variation of 4, as
published traces of chat services have at their worst), or at a rate that rises and falls (diurnal: a sine of +- 80 %,
two periods). What users and answers say is as long as the turns given.
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from cluster.simulation.traffic import PAGE_TOKENS, Arrival

Shape = Literal["poisson", "burst", "diurnal"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
BURST_VARIATION = 4.0
SWING, PERIODS = 0.8, 2.0
SYSTEM_PROMPTS = (256, 512, 512, 1024, 1024, 2048)
"""Tokens of each; the first is the most popular, by Zipf's law."""
DOCUMENT_SHARE, DOCUMENT_TOKENS, DOCUMENT_SPREAD, MOST_DOCUMENT_TOKENS = 0.1, 2000, 0.6, 8000
MEAN_TURNS = 3
PAUSE_S = 12.0
"""Mean time between an answer and the next question, besides that to read it."""
READ_S_PER_TOKEN = 0.02
NAMES_OF_PROMPTS, NAMES_OF_SESSIONS = 1, 1_000


class Turn(NamedTuple):
    """Tokens of a question, and of its answer."""

    question: int
    answer: int


class Traffic(NamedTuple):
    """Requests without a time scale: sessions of (seconds since the session's start, arrival)."""

    sessions: list[list[tuple[float, Arrival]]]

    @property
    def requests(self) -> int:
        """How many."""
        return sum(len(session) for session in self.sessions)


def conversations(turns: Sequence[Turn], requests: int, seed: int) -> Traffic:
    """About so many requests: conversations that draw from `turns`, and documents with one question."""
    draw = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(SYSTEM_PROMPTS))]
    sessions: list[list[tuple[float, Arrival]]] = []
    made = 0
    while made < requests:
        number = len(sessions)
        if draw.random() < DOCUMENT_SHARE * MEAN_TURNS:
            tokens = min(round(draw.lognormvariate(math.log(DOCUMENT_TOKENS), DOCUMENT_SPREAD)), MOST_DOCUMENT_TOKENS)
            own = NAMES_OF_SESSIONS + number
            session = [(0.0, Arrival(0, 0.0, max(64, tokens), draw.choice(turns).answer, "", (), own))]
        else:
            session = _conversation(turns, number, draw, draw.choices(range(len(SYSTEM_PROMPTS)), weights)[0])
        sessions.append(session)
        made += len(session)
    return Traffic(sessions)


def timed(traffic: Traffic, per_s: float, shape: Shape, seed: int) -> list[Arrival]:
    """The requests at a mean rate, by time."""
    draw = random.Random(seed)
    horizon_s = traffic.requests / per_s
    begins = _begins(len(traffic.sessions), horizon_s, shape, draw)
    arrivals = [
        arrival._replace(time_s=begin + after)
        for begin, session in zip(begins, traffic.sessions, strict=True)
        for after, arrival in session
    ]
    arrivals.sort(key=lambda arrival: arrival.time_s)
    return [arrival._replace(number=number) for number, arrival in enumerate(arrivals)]


def _conversation(turns: Sequence[Turn], number: int, draw: random.Random, system: int) -> list[tuple[float, Arrival]]:
    session, history, after = [], SYSTEM_PROMPTS[system], 0.0
    runs = ((NAMES_OF_PROMPTS + system, SYSTEM_PROMPTS[system] // PAGE_TOKENS),)
    while True:
        question, answer = draw.choice(turns)
        history += question
        arrival = Arrival(0, 0.0, history, answer, f"s{number}", runs, NAMES_OF_SESSIONS + number)
        session.append((after, arrival))
        history += answer
        after += READ_S_PER_TOKEN * answer + draw.expovariate(1 / PAUSE_S)
        if draw.random() < 1 / MEAN_TURNS:
            return session


def _begins(count: int, horizon_s: float, shape: Shape, draw: random.Random) -> Iterator[float]:
    mean_s = horizon_s / count
    now_s = 0.0
    for _ in range(count):
        if shape == "poisson":
            now_s += draw.expovariate(1 / mean_s)
            yield now_s
        elif shape == "burst":
            form = 1 / BURST_VARIATION**2
            now_s += draw.gammavariate(form, mean_s / form)
            yield now_s
        else:
            now_s += draw.expovariate(1 / mean_s)
            yield _swung(now_s, horizon_s)


def _swung(even_s: float, horizon_s: float) -> float:
    """Where the rate's integral reaches what it has at `even_s` with an even rate (bisection)."""
    turn = 2 * math.pi * PERIODS / horizon_s
    low, high = 0.0, 2 * even_s + horizon_s
    for _ in range(50):
        middle = (low + high) / 2
        if middle + SWING / turn * (1 - math.cos(turn * middle)) < even_s:
            low = middle
        else:
            high = middle
    return high
