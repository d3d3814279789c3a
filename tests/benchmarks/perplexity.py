"""Perplexity of the CPU decoder beside float32's on text of $RUSSET_DATA.

    python -m tests.benchmarks.perplexity --tokens 20000

The float32 figure is the NumPy oracle's, which reads the same windows; allow about two minutes on two cores.
"""

import argparse
import json
import time

from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from kernels.backend import build_decoder
from tests.oracles import decoder as oracle
from tests.oracles import running

TEXT = running.DATA / "text" / "gsm8k_train.jsonl"
TOKENS_OF_A_RECORD = 50
"""Fewer than any has, so that as many records as tokens / 50 suffice."""


def read_windows(vocabulary: Vocabulary, tokens: int, window: int) -> list[list[int]]:
    """The text's first `tokens` tokens as separate sequences of `window`."""
    records = map(json.loads, TEXT.read_text("utf-8").splitlines()[: tokens // TOKENS_OF_A_RECORD])
    text = "\n\n".join(f"{record['question']}\n{record['answer']}" for record in records)
    return running.windows(vocabulary, text, tokens, window)


def main() -> None:
    """Print both perplexities, their distance and the tokens per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="path or alias")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=500, help="tokens read together; each window starts anew")
    arguments = parser.parse_args()

    model = load_model(arguments.model)
    sequences = read_windows(Vocabulary(model.vocabulary), arguments.tokens, arguments.window)

    decoder = build_decoder(model.spec, model.weights, backend="cpu")
    started = time.perf_counter()
    served = running.perplexity((running.logits_of(decoder, ids) for ids in sequences), sequences)
    served_s = time.perf_counter() - started
    started = time.perf_counter()
    exact = running.perplexity((oracle.logits(model.spec, model.weights, [ids])[0] for ids in sequences), sequences)
    exact_s = time.perf_counter() - started

    print(f"{arguments.tokens} tokens of gsm8k_train in windows of {arguments.window}")
    print(f"CPU decoder  {served:8.4f}   {arguments.tokens / served_s:7.0f} tokens/s with scoring")
    print(f"float32      {exact:8.4f}   {arguments.tokens / exact_s:7.0f} tokens/s with scoring")
    print(f"distance     {100 * (served / exact - 1):+8.2f} %")


if __name__ == "__main__":
    main()
