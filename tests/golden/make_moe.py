"""Makes the golden logits of the random mixtures of experts of tests.oracles.tiny_moe with mlx-lm.

    python -m tests.oracles.tiny_moe /tmp/moe
    .peers/mlx-lm/bin/python tests/golden/make_moe.py /tmp/moe

Needs mlx-lm and nothing of Russet, so that no mistake of ours can hide in what we are compared with.
"""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model

IDS = [5, 80, 3, 200, 17, 17, 99, 1, 254, 60]


def main() -> None:
    """Write logits [tokens, vocab] of IDS by every model of the folder."""
    mx.set_default_device(mx.cpu)
    logits = {}
    for directory in sorted(Path(sys.argv[1]).iterdir()):
        model, _ = load_model(directory)
        logits[directory.name] = np.array(model(mx.array([IDS]))[0].astype(mx.float32))
    np.savez_compressed(Path(__file__).with_name("moe_logits.npz"), **logits)


if __name__ == "__main__":
    main()
