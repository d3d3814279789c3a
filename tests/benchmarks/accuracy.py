"""How far the CPU decoder's answers are from float32's, at batch size 1 and in a batch, on text of $RUSSET_DATA.

Every position of the text is computed as a decode step, so that the kernels of that batch size are the ones measured,
and held against the NumPy oracle's float32 logits at the same position: perplexity, the divergence
KL(float32 || ours), and whether the likeliest token is the same one.

    python -m tests.benchmarks.accuracy 20480

reads more tokens than the part `accuracy` of python -m tests.benchmarks does: about 20 s a thousand on two cores.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from actors.base.vocabulary import Vocabulary
from actors.worker.models import LoadedModel, load_model
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Batch, Float32, Int32, Rounding
from tests.benchmarks.decoding import MODEL
from tests.benchmarks.forward import PAGE_SIZE, page_table
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples, show, take
from tests.benchmarks.perplexity import TEXT, read_windows
from tests.oracles import decoder as oracle

ROWS, WINDOW = 16, 128
TOKENS = ROWS * WINDOW
PROMPT, ANSWER = 32, 32
MOST_KL = {1: 0.005, ROWS: 0.001}
DEPENDENT = Figure(f"prompts answered otherwise alone than among {ROWS}", "%", 0, higher_is_better=False)


@dataclass
class Distance:
    """What was seen so far of one batch size's distance to float32: a value per scored position."""

    exact_loss: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    same_top: list[bool] = field(default_factory=list)

    def add(self, exact: Float32, served: Float32, ids: Sequence[int]) -> None:
        """Compare the logits [T, vocab] of a window of T tokens; its last position has no next token to predict."""
        ours, theirs = log_softmax(served[:-1]), log_softmax(exact[:-1])
        at, following = np.arange(len(ids) - 1), np.array(ids[1:])
        self.loss += list(-ours[at, following])
        self.exact_loss += list(-theirs[at, following])
        self.divergence += list((np.exp(theirs) * (theirs - ours)).sum(axis=1))
        self.same_top += list(served[:-1].argmax(axis=1) == exact[:-1].argmax(axis=1))

    def figures(self, rows: int) -> dict[Figure, list[float]]:
        """Means over all positions, for `rows` rows a step."""
        batch = f", {rows} row{'s' * (rows > 1)}"
        distance = abs(np.exp(np.mean(self.loss) - np.mean(self.exact_loss)) - 1)
        return {
            Figure(f"perplexity{batch}", "", higher_is_better=False): [float(np.exp(np.mean(self.loss)))],
            Figure(f"  distance to float32's{batch}", "%", 0.5, higher_is_better=False): [100 * float(distance)],
            Figure(f"KL to float32{batch}", "nats", MOST_KL[rows], higher_is_better=False): [
                float(np.mean(self.divergence))
            ],
            Figure(f"same likeliest token{batch}", "%", 97): [100 * float(np.mean(self.same_top))],
        }


def log_softmax(logits: Float32) -> NDArray[np.float64]:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def stepwise(decoder: CpuDecoder, sequences: Sequence[Sequence[int]]) -> Float32:
    """Logits [rows, T, vocab] of equally long sequences, every token of them a decode step of all rows."""
    tokens = np.array(sequences, np.int32)
    rows, length = tokens.shape
    table = page_table(rows, length)
    kv = decoder.allocate_kv(table.size, PAGE_SIZE)
    starts, every = np.arange(rows + 1, dtype=np.int32), np.arange(rows, dtype=np.int32)
    logits = np.empty((rows, length, decoder.spec.vocab), np.float32)
    for step in range(length):
        lengths = np.full(rows, step, np.int32)
        logits[:, step] = decoder.forward(
            Batch(np.ascontiguousarray(tokens[:, step]), starts, lengths, table, every), kv
        )
    return logits


def answers(decoder: CpuDecoder, prompts: Sequence[Sequence[int]], tokens: int) -> Int32:
    """Greedy answers [rows, tokens] to equally long prompts, prefilled in one forward and decoded together."""
    rows, prompt = len(prompts), len(prompts[0])
    table = page_table(rows, prompt + tokens)
    kv = decoder.allocate_kv(table.size, PAGE_SIZE)
    starts, every = np.arange(rows + 1, dtype=np.int32), np.arange(rows, dtype=np.int32)
    first = Batch(
        np.array(prompts, np.int32).ravel(), starts * prompt, np.zeros(rows, np.int32), table, starts[1:] * prompt - 1
    )
    answer = [np.argmax(decoder.forward(first, kv), axis=1).astype(np.int32)]
    while len(answer) < tokens:
        lengths = np.full(rows, prompt + len(answer) - 1, np.int32)
        logits = decoder.forward(Batch(answer[-1], starts, lengths, table, every), kv)
        answer.append(np.argmax(logits, axis=1).astype(np.int32))
    return np.stack(answer, axis=1)


def measure(model: LoadedModel, tokens: int, rounding: Rounding) -> dict[Figure, list[float]]:
    """All figures over the text's first `tokens` tokens (a multiple of ROWS * WINDOW), in windows of WINDOW."""
    decoder = CpuDecoder(model.spec, model.weights, rounding=rounding)
    windows = read_windows(Vocabulary(model.vocabulary), tokens, WINDOW)
    distances = {1: Distance(), ROWS: Distance()}
    dependent = 0
    for begin in range(0, len(windows), ROWS):
        group = windows[begin : begin + ROWS]
        batched = stepwise(decoder, group)
        for row, ids in enumerate(group):
            exact = oracle.logits(model.spec, model.weights, [ids])[0]
            distances[1].add(exact, stepwise(decoder, [ids])[0], ids)
            distances[ROWS].add(exact, batched[row], ids)
        prompts = [ids[:PROMPT] for ids in group]
        together = answers(decoder, prompts, ANSWER)
        dependent += sum(
            not np.array_equal(answers(decoder, [prompt], ANSWER)[0], answer)
            for prompt, answer in zip(prompts, together, strict=True)
        )
    figures = {figure: value for rows, each in distances.items() for figure, value in each.figures(rows).items()}
    return figures | {DEPENDENT: [100 * dependent / len(windows)]}


def _contender(tokens: int, rounding: Rounding) -> Contender:
    async def samples() -> Samples:
        return measure(load_model(MODEL), tokens, rounding) if TEXT.exists() else {}

    note = f"{tokens:,} tokens of {TEXT.name} in windows of {WINDOW}, decoded; the same each time, so once"
    name = "Russet" if rounding == "fine" else f"Russet, {rounding}"
    return Contender(name, samples, note if TEXT.exists() else f"no text at {TEXT}: set RUSSET_DATA", once=True)


def part(tokens: int) -> Part:
    """The benchmark over so many tokens, a contender for each rounding."""

    @asynccontextmanager
    async def contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
        yield [_contender(tokens, rounding) for rounding in get_args(Rounding)]

    return Part("accuracy", "The decoder beside float32", contenders)


PART = part(TOKENS)


def main() -> None:
    """Print the table over as many tokens as the command line says, rounded up to whole batches."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else TOKENS
    chosen = part(-(-wanted // TOKENS) * TOKENS)
    show(asyncio.run(take(chosen, Options(rounds=1), lambda what: None)), Console(width=140))


if __name__ == "__main__":
    main()
