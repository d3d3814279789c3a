"""A 1B-class llama of random weights beside llama.cpp: no kernel may be tuned to one small model's dimensions.

Q4_1 as the default model is, and Q4_0, which llama.cpp repacks for wide registers and so runs fastest. Every layer
holds the same random blocks, each in bytes of its own; the tokenizer is the default model's. One row is bound by
reading the weights, which no cache holds: where llama.cpp comes near that limit, no program can be much faster.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from actors.worker.models.catalogue import locate
from actors.worker.models.gguf import read_gguf
from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from tests.benchmarks.decoding import MODEL, beside, decode_rate, llama_contender, load
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.llama import Llama
from tests.benchmarks.processes import private_home
from tests.oracles.gguf_writer import F32, Q4_0, Q4_1, Q8_0, Tensor, write

LAYERS, HIDDEN, HEADS, KV_HEADS, INTERMEDIATE = 16, 2048, 32, 8, 8192
CONTEXT = 2048
PROMPT = 32
"""Tokens before the first decoded: llama.cpp computes about fifty a second."""
DECODED = 16
BLOCK = 32
FORMATS = {"Q4_1": Q4_1, "Q4_0": Q4_0}
DECODE = {
    (name, rows): Figure(f"{name}, {rows} row{'s' * (rows > 1)}", "tokens/s", ratios=beside(1.5))
    for name in FORMATS
    for rows in (1, 16)
}
LIMIT = {name: Figure(f"  {name}, 1 row: of what reading the weights allows", "%") for name in FORMATS}


def write_model(path: Path, kind: int) -> Path:
    """Write the model as GGUF (0.7 GB) with its matrices in `kind`, return its path."""
    tokenizer = {
        key: _writable(item)
        for key, item in read_gguf(locate(MODEL)[1]).metadata.items()
        if key.startswith("tokenizer.")
    }
    vocab = len(tokenizer["tokenizer.ggml.tokens"])
    metadata = {
        "general.architecture": "llama",
        "general.name": "random 1B",
        "llama.block_count": LAYERS,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INTERMEDIATE,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 100000.0,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "llama.vocab_size": vocab,
    }
    return write(path, metadata | tokenizer, list(_tensors(vocab, kind)))


def _writable(item: Any) -> Any:
    """Lists of numbers as the writer takes them."""
    if isinstance(item, list) and item and isinstance(item[0], int):
        return np.array(item, np.int32)
    return item


def _tensors(vocab: int, kind: int) -> Iterator[Tensor]:
    random = np.random.default_rng(0)
    kv = KV_HEADS * (HIDDEN // HEADS)
    ones = np.ones(HIDDEN, np.float32).tobytes()
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (kv, HIDDEN),
        "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (INTERMEDIATE, HIDDEN),
        "ffn_up": (INTERMEDIATE, HIDDEN),
        "ffn_down": (HIDDEN, INTERMEDIATE),
    }
    matrices = {name: blocks(random, *shape, kind) for name, shape in shapes.items()}
    yield "token_embd.weight", (vocab, HIDDEN), Q8_0, blocks(random, vocab, HIDDEN, Q8_0)
    yield "output_norm.weight", (HIDDEN,), F32, ones
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            yield f"blk.{layer}.{name}.weight", shape, kind, matrices[name]
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", (HIDDEN,), F32, ones


def blocks(random: np.random.Generator, outputs: int, inputs: int, kind: int) -> bytes:
    """Random blocks of 32 values about 1 / sqrt(inputs) large: a half-precision scale, Q4_1's minimum, the integers."""
    bits = 8 if kind == Q8_0 else 4
    integers = random.integers(0, 256, (outputs * inputs // BLOCK, BLOCK * bits // 8), np.uint8)
    scale = inputs**-0.5 / 2 ** (bits - 1)
    head = np.array([scale, -scale * 2 ** (bits - 1)] if kind == Q4_1 else [scale], "<f2")
    return np.hstack([np.tile(head.view(np.uint8), (len(integers), 1)), integers]).tobytes()


def _ours(decoders: dict[str, CpuDecoder]) -> Samples:
    samples: dict[Figure, list[float]] = {}
    for (name, rows), figure in DECODE.items():
        rate = decode_rate(decoders[name], rows, PROMPT, DECODED)
        samples[figure] = [rate]
        if rows == 1:
            limit = _ext.read_bandwidth(256 << 20) / decoders[name].weight_bytes
            samples[LIMIT[name]] = [100 * rate / limit]
    return samples


async def _llama(programs: dict[str, Llama]) -> dict[Figure, list[float]]:
    rates = {name: await each.decode(PROMPT, (1, 16), DECODED) for name, each in programs.items()}
    return {figure: [rates[name][rows]] for (name, rows), figure in DECODE.items()}


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    with private_home() as home:
        files = {name: write_model(home / f"{name}.gguf", kind) for name, kind in FORMATS.items()}
        decoders = {name: load(str(path)) for name, path in files.items()}
        programs = {name: Llama(Path(options.llama), path, _ext.threads()) for name, path in files.items()}

        async def measure() -> Samples:
            return _ours(decoders)

        sizes = ", ".join(f"{name} {decoder.weight_bytes / 1e6:.0f} MB" for name, decoder in decoders.items())
        yield [
            Contender("Russet", measure, f"the decoder alone, {_ext.threads()} threads; packed weights: {sizes}"),
            llama_contender(programs["Q4_1"], lambda _: _llama(programs)),
        ]


PART = Part(
    "larger", f"Decoding of a random llama: {LAYERS} layers, {HIDDEN} wide, {HEADS} heads over {KV_HEADS}", _contenders
)
