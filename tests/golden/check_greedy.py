"""Checks a backend against all golden answers, and names every difference by the gap of its logits.

    python -m tests.golden.check_greedy mlx

Each answer is read in one forward: where every greedy choice is the golden one, decoding gives the same answer. Stock
MLX needs about 15 s an answer on a CPU.
"""

import argparse
import json
from pathlib import Path

from actors.worker.models import load_model
from kernels.backend import build_decoder
from tests.oracles import running


def main() -> None:
    """Print one line an answer, then the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=("mlx", "cpu"))
    arguments = parser.parse_args()
    model = load_model("smollm2-135m-instruct")
    decoder = build_decoder(model.spec, model.weights, backend=arguments.backend)
    equal = total = 0
    for answer in json.loads((Path(__file__).parent / "greedy_smollm2.json").read_text())["answers"]:
        ids = answer["prompt_ids"] + answer["ids"][:-1]
        drawn = running.logits_of(decoder, ids, len(answer["prompt_ids"]) - 1).argmax(axis=1).tolist()
        gaps = [gap for token, wanted, gap in zip(drawn, answer["ids"], answer["gap"], strict=True) if token != wanted]
        equal, total = equal + len(drawn) - len(gaps), total + len(drawn)
        print(f"{len(drawn) - len(gaps)}/{len(drawn)} {answer['prompt']!r} gaps where different: {gaps}", flush=True)
    print(f"{arguments.backend}: {equal} of {total} tokens as mlx-lm on float32 weights")


if __name__ == "__main__":
    main()
