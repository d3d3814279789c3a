"""Causal attention with grouped queries over paged keys and values, row by row."""

import mlx.core as mx
import numpy as np

from kernels import tree
from kernels.decoder import Batch


def paged_attention(q: mx.array, k_pages: mx.array, v_pages: mx.array, batch: Batch, scale: float) -> mx.array:
    """q [T, heads, D] against pages [pages, page_size, kv_heads, D] that already hold the batch's K and V.

    Query head h reads kv head h // (heads // kv_heads); the token at position p of a row sees positions 0..p of that
    row, or where it branches those of the tokens that it follows. Softmax in float32; returns [T, heads, D] in q's
    dtype. Only row_starts, lengths, page_table and parents are read.
    """
    tokens, heads, dim = q.shape
    page_size, kv_heads = k_pages.shape[1:3]
    if tokens == 0:
        return q
    outputs = []
    for row, length in enumerate(batch.lengths.tolist()):
        start, end = int(batch.row_starts[row]), int(batch.row_starts[row + 1])
        keys = length + end - start
        pages = mx.array(batch.page_table[row, : -(-keys // page_size)])
        k = k_pages[pages].reshape(-1, kv_heads, dim)[:keys].transpose(1, 2, 0).astype(mx.float32)
        v = v_pages[pages].reshape(-1, kv_heads, dim)[:keys].transpose(1, 0, 2).astype(mx.float32)
        queries = q[start:end].reshape(end - start, kv_heads, heads // kv_heads, dim).transpose(1, 2, 0, 3)
        scores = (queries.astype(mx.float32) * scale) @ k[:, None]  # [kv_heads, group, t, keys]
        visible = mx.array(tree.visible(batch, row, 0, end - start, keys).view(np.uint8)) > 0
        weights = mx.softmax(mx.where(visible, scores, -mx.inf), axis=-1)
        outputs.append((weights @ v[:, None]).transpose(2, 0, 1, 3).reshape(end - start, heads, dim))
    return mx.concatenate(outputs).astype(q.dtype)
