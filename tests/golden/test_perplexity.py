"""Perplexity of the CPU decoder is that of float32: its 15-bit activations and half-precision K and V cost nothing."""

import json

import pytest

from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from kernels import cpu
from kernels.backend import build_decoder
from tests.oracles import decoder as oracle
from tests.oracles import running

TEXT = running.DATA / "text" / "gsm8k_train.jsonl"


@pytest.mark.data
@pytest.mark.skipif(not TEXT.is_file(), reason=f"no text at {TEXT}: set RUSSET_DATA to where it is")
@pytest.mark.skipif(not cpu.available(), reason=cpu.reason())
def test_perplexity_of_2000_tokens_is_within_a_thousandth_of_float32():
    model = load_model("smollm2-135m-instruct")
    with TEXT.open() as lines:
        records = [json.loads(next(lines)) for _ in range(30)]
    text = "\n\n".join(f"{record['question']}\n{record['answer']}" for record in records)
    sequences = running.windows(Vocabulary(model.vocabulary), text, tokens=2000, length=250)
    decoder = build_decoder(model.spec, model.weights, backend="cpu")
    served = running.perplexity([running.logits_of(decoder, ids) for ids in sequences], sequences)
    exact = running.perplexity(oracle.logits(model.spec, model.weights, sequences), sequences)
    print(f"perplexity: CPU decoder {served:.4f}, float32 {exact:.4f}")
    assert served == pytest.approx(exact, rel=0.001)
