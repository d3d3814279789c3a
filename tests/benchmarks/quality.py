"""What a cosine says about coherence: the calibration of actors.memory.quality, from real questions and answers.

    python -m tests.benchmarks.quality [--each N]

Real: N of GSM8K's questions with their answers ($RUSSET_DATA), and as many chat prompts with what the default model
answers to them as there are. Shuffled: the same answers under other questions, and sentences drawn from all answers of
the kind. A logistic regression (Platt 1999) over as many of one as of the other gives slope and middle; told with it:
how shuffled and real ones score, and the processor time that scoring an answer takes.
"""

import argparse
import asyncio
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

from actors.memory.config import MemoryConfig
from actors.memory.embedder import default_directory
from actors.memory.quality.calibration import Calibration
from actors.memory.quality.coherence import answering, neighbouring
from actors.memory.quality.scorer import excerpt
from cluster.config import load
from cluster.local import LocalCluster
from kernels.encoder import Encoder

DATA = Path(os.environ.get("RUSSET_DATA") or Path(__file__).parents[3] / "shared" / "data")
Pair = tuple[str, str]


class Cosines(NamedTuple):
    """Of one kind of pair."""

    real: list[float]
    shuffled: list[float]


def gsm8k(count: int) -> list[Pair]:
    """Questions and their answers in words, without the calculator's marks."""
    with (DATA / "text" / "gsm8k_train.jsonl").open() as lines:
        rows = [json.loads(line) for _, line in zip(range(count), lines, strict=False)]
    return [(row["question"], re.sub(r"<<.*?>>|####.*", "", row["answer"])) for row in rows]


async def chats() -> list[Pair]:
    """Chat prompts and what the default model says to them."""
    files = [DATA / "prompts" / name for name in ("mt_bench.jsonl", "vicuna.jsonl")]
    prompts = [json.loads(line)["turns"][0] for file in files for line in file.read_text().splitlines()]
    with tempfile.TemporaryDirectory(prefix="rt-") as home:
        config = load(None, {"home": home, "gateway.port": 0, "gateway.grpc_port": 0}, environ={})
        async with LocalCluster(config) as cluster, httpx.AsyncClient(base_url=cluster.http, timeout=900) as client:

            async def ask(prompt: str) -> Pair:
                message = {"role": "user", "content": prompt}
                body = {"messages": [message], "max_tokens": 120, "temperature": 0.7, "seed": 1}
                reply = (await client.post("/v1/chat/completions", json=body)).raise_for_status()
                return prompt, reply.json()["choices"][0]["message"]["content"]

            return list(await asyncio.gather(*map(ask, prompts)))


def cosines(encoder: Encoder, pairs: Sequence[Pair], seed: int = 0) -> tuple[Cosines, Cosines, float]:
    """Of neighbours and of answers with questions, real and shuffled; and processor seconds per answer."""
    most, chance = MemoryConfig().quality_sentences, random.Random(seed)
    began = time.process_time()
    read = [(question, *excerpt(answer, most)) for question, answer in pairs]
    read = [(question, texts, places) for question, texts, places in read if texts]
    vectors = [encoder.embed(texts) for _, texts, _ in read]
    seconds = (time.process_time() - began) / len(pairs)
    questions = encoder.embed([question for question, _, _ in read])
    everything = np.concatenate(vectors)
    neighbours, answers = Cosines([], []), Cosines([], [])
    for at, (each, (_, _, places)) in enumerate(zip(vectors, read, strict=True)):
        if (cosine := neighbouring(each, places)) is not None:
            strangers = everything[chance.sample(range(len(everything)), len(each))]
            neighbours.real.append(cosine)
            neighbours.shuffled.append(neighbouring(strangers, places) or 0.0)
        other = (at + 1 + chance.randrange(len(read) - 1)) % len(read)
        answers.real.append(answering(each, questions[at]) or 0.0)
        answers.shuffled.append(answering(each, questions[other]) or 0.0)
    return neighbours, answers, seconds


def fitted(kinds: Sequence[Cosines]) -> Calibration:
    """Logistic regression by Newton's method on Platt's targets; each kind of data counts the same."""
    x = np.array([value for kind in kinds for values in kind for value in values])
    n = [len(kind.real) for kind in kinds]
    high = np.concatenate([np.repeat([(count + 1) / (count + 2), 1 / (count + 2)], count) for count in n])
    weight = np.concatenate([np.full(2 * count, 1 / count) for count in n])
    slope, shift = 0.0, 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-(slope * x + shift)))
        error, curve = weight * (p - high), weight * p * (1 - p) + 1e-12
        gradient = np.array([error @ x, error.sum()])
        hessian = np.array([[curve @ (x * x), curve @ x], [curve @ x, curve.sum()]])
        step: NDArray[np.float64] = np.linalg.solve(hessian, gradient)
        slope, shift = slope - step[0], shift - step[1]
    return Calibration(float(slope), float(-shift / slope))


def main() -> None:
    """Print the calibration and what it does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=600, help="GSM8K pairs")
    each = parser.parse_args().each
    sets = {"GSM8K": gsm8k(each), "chat": asyncio.run(chats())}
    encoder = Encoder.load(default_directory())
    told = {name: cosines(encoder, pairs) for name, pairs in sets.items()}
    for index, what in enumerate(("neighbours", "answers")):
        calibration = fitted([found[index] for found in told.values()])
        print(f"{what}: slope {calibration.slope:.2f}, middle {calibration.middle:.3f}")
        for name, found in told.items():
            for kind, values in zip(("real", "shuffled"), found[index], strict=True):
                cosine = ", ".join(f"{value:.2f}" for value in np.percentile(values, [5, 50, 95]))
                scores = [calibration.probability(value) for value in values]
                score = ", ".join(f"{value:.2f}" for value in np.percentile(scores, [5, 50, 95]))
                print(f"  {name} {kind} ({len(values)}): cosine {cosine}; score {score}, mean {np.mean(scores):.3f}")
    for name, found in told.items():
        print(f"{name}: {1e3 * found[2]:.0f} ms of processor time an answer")


if __name__ == "__main__":
    main()
