"""Makes the golden greedy answers with mlx-lm, on float32 weights that `export_float32` wrote.

    python -m venv /tmp/golden-venv && /tmp/golden-venv/bin/pip install mlx-lm 'mlx[cpu]==0.32.4'
    .venv/bin/python -m tests.golden.export_float32 smollm2-135m-instruct /tmp/smollm2-float32
    /tmp/golden-venv/bin/python tests/golden/make_greedy.py /tmp/smollm2-float32

Needs mlx-lm and nothing of Russet, so that no mistake of ours can hide in what we are compared with. Stock MLX decodes
4 to 9 tokens/s on a CPU: allow several minutes. `gap` is the distance of the two best logits at each step: where
another implementation answers otherwise, a small gap there says that it was a near-tie.
"""

import argparse
import json
from pathlib import Path

import mlx.core as mx
import mlx_lm
import transformers
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

TOKENS = 64
HERE = Path(__file__).parent


def main() -> None:
    """Write greedy_smollm2.json: for each prompt its text, the rendered ids, 64 greedy ids and their gaps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="float32 model directory")
    parser.add_argument("--output", type=Path, default=HERE / "greedy_smollm2.json")
    arguments = parser.parse_args()
    model, _ = load_model(arguments.directory)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(arguments.directory / "tokenizer.json"))
    template = json.loads((arguments.directory / "tokenizer_config.json").read_text())["chat_template"]

    answers = []
    for prompt in json.loads((HERE / "prompts.json").read_text()):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], chat_template=template, add_generation_prompt=True, tokenize=False
        )
        prompt_ids = tokenizer.encode(text, add_special_tokens=False)
        ids, gaps = greedy(model, prompt_ids)
        answers.append({"prompt": prompt, "prompt_ids": prompt_ids, "ids": ids, "gap": gaps})
        print(f"{prompt!r}: {tokenizer.decode(ids)!r}", flush=True)
    made_with = {"mlx": mx.__version__, "mlx_lm": mlx_lm.__version__, "transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers)
    arguments.output.write_text(f'{{"made_with": {json.dumps(made_with)}, "answers": [\n{lines}\n]}}\n')


def greedy(model, prompt_ids: list[int]) -> tuple[list[int], list[float]]:
    """TOKENS greedy ids (end-of-text does not stop them) and the gap between the two best logits at each."""
    cache = make_prompt_cache(model)
    ids: list[int] = []
    gaps: list[float] = []
    step = prompt_ids
    for _ in range(TOKENS):
        logits = model(mx.array([step]), cache=cache)[0, -1].astype(mx.float32)
        best = mx.sort(logits)[-2:].tolist()
        ids.append(int(mx.argmax(logits).item()))
        gaps.append(round(best[1] - best[0], 5))
        step = ids[-1:]
    return ids, gaps


if __name__ == "__main__":
    main()
