// The vectorised row operations of the decoder: norms, the gate, rotary embedding, half precision, attention tiles; those
// of the sentence encoder; and the passes of the sampler over a row.
//
// Each works on single rows (or single queries), so that a row's result never depends on what else is in the batch.
// The bodies (*_body.h over lanes.h) are compiled once per instruction set, by
// vector_avx2.cpp and its like; this header therefore includes nothing that has inline code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace russet {

// An attention tile's kernel asks for the memory of the block that comes so many blocks later.
constexpr int kBlocksAhead = 16;
constexpr int kQuarters = 4;
constexpr int kPeakBlock = 64;
constexpr int kSumBlock = 256;
constexpr int kWeightBits = 30;

// Up to 16 neighbouring keys of one page, in the slab's layout (slab.h).
struct KeyBlock {
    const void* keys;              // halves [dim][16], or lines of codes
    const void* values;            // halves [16][dim], or lines of codes
    const uint16_t* key_scales;    // of codes: [dim] scales, [dim] zeros; shared by the quarters of a block
    const uint16_t* value_scales;  // of codes: [16] scales, [16] zeros
    int offset;                    // of its first key in the tile
    int count;  // keys that any query of the call sees; blocks come in order, without gaps; of codes, all 16
    int bits;   // 16, or of a code: 8, 4 or 2
};

// 64 tokens of one kv head by quarters of 16: in half precision, keys [dim][16] and values [16][dim] ...
struct HalfTokens {
    const uint16_t *keys[kQuarters], *values[kQuarters];
};
// ... and packed, as slab.h says.
struct PackedTokens {
    uint16_t* key_scales;
    uint32_t *keys[kQuarters], *values[kQuarters];
    uint16_t* value_scales[kQuarters];
};

// Some queries of one row and kv head against one tile of its keys.
struct TileCall {
    const KeyBlock* blocks;  // [block_count], and kBlocksAhead more that are read soon after, to be fetched meanwhile
    int block_count;
    int keys;            // in all blocks together
    int dim;             // padded to a multiple of 16
    int queries;
    const float* q;      // [queries][dim], scaled
    const int* visible;  // [queries], keys of the tile that the query sees: 1..keys, or 0 where the row branches
    float* scores;       // scratch [6][stride]
    float* scaled;       // scratch [6][dim]
    int stride;          // at least keys rounded up to 16, plus 16
    // Of a row that branches, else null: what each query sees past the tile's first `trunk` keys, as their offsets in the
    // tile, rising. Then the numbers are those of these keys alone, side by side.
    const int* const* paths;
    int trunk;
    float* out;          // [queries][dim]: sum of e^(score - maximum) * value
    float* maxima;       // [queries]
    float* sums;         // [queries]: sum of e^(score - maximum)
};

// One head of one text of a sentence encoder: every token attends to all of the text's.
constexpr int kTextQueries = 6;
struct TextCall {
    const float *q, *k, *v;  // [tokens][dim], rows `stride` apart
    ptrdiff_t stride;
    int tokens, dim;
    float scale;    // of q . k
    float* keys;    // scratch [dim][padded]
    int padded;     // tokens rounded up to 16
    float* values;  // scratch [tokens][wide]
    int wide;       // dim rounded up to 16
    float* scores;  // scratch [kTextQueries][padded]
    float* out;     // [tokens][dim], rows `out_stride` apart
    ptrdiff_t out_stride;
};

// Some weights of a row; the arrays have room for 16 more than the row has.
struct FoundWeights {
    int32_t* weights;
    int32_t* ids;
    int count;
};

struct VectorKernels {
    // out[i] = x[i] * w[i] / sqrt(mean(x^2) + eps)
    void (*rms_norm)(const float* x, const float* w, float eps, int n, float* out);
    // x[i] += y[i]
    void (*add)(float* x, const float* y, int n);
    // gate[i] = silu(gate[i]) * up[i]
    void (*silu_gate)(float* gate, const float* up, int n);
    // gate[i] = gelu(gate[i]) * up[i], the tanh approximation
    void (*gelu_gate)(float* gate, const float* up, int n);
    // Rotates the pairs (2i, 2i + 1), or (i, i + pairs), of one head by the angles whose cosines and sines are given.
    void (*rope)(float* head, const float* cosines, const float* sines, int pairs, bool interleaved);
    // Rounds to half precision; values past the largest half become that half, never infinity.
    void (*to_half)(const float* x, int n, uint16_t* out);
    void (*attend_tile)(const TileCall& call);
    // Folds one tile's partials into the running ones of the same queries; both are scaled to the larger maximum.
    void (*merge_tile)(int queries, int dim, const float* partial, const float* tile_maxima, const float* tile_sums,
                       float* merged, float* maxima, float* sums);
    // Packs tokens into codes of so many bits: affine from the least value (code 0) to the largest, keys by channel and
    // values by token. The same bytes on every instruction set. Values past head_dim are padding.
    void (*pack)(const HalfTokens& from, int head_dim, int dim, int bits, const PackedTokens& to);
    // One quarter of them in half precision again; padding is zeros.
    void (*unpack)(const PackedTokens& from, int quarter, int head_dim, int dim, int bits, uint16_t* keys,
                   uint16_t* values);
    // maxima[b] = the largest of x[64 b, 64 (b + 1)); returns the largest of all, or NaN where any is NaN.
    float (*peaks)(const float* x, int n, float* maxima);
    // w[i] = 2^30 * 2^((x[i] - peak) * rate) as kernels/sampling.py rounds it; sums[b] = sum of w[256 b, 256 (b + 1)).
    // `maxima` and `peak` are what `peaks` says of x.
    void (*weigh)(const float* x, const float* maxima, float peak, float rate, int n, int32_t* w, int64_t* sums);
    // Sum of the w[i] >= least.
    int64_t (*sum_from)(const int32_t* w, int n, int32_t least);
    // Returns the sum of the w[i] >= high; appends every low <= w[i] < high, in order, to `found`.
    int64_t (*split)(const int32_t* w, int n, int32_t low, int32_t high, int32_t first, FoundWeights& found);
    // out = (z - mean(z)) / sqrt(variance(z) + eps) * w + b, z = x + y; out may be x.
    void (*layer_norm)(const float* x, const float* y, const float* w, const float* b, float eps, int n, float* out);
    // x[i] = gelu(x[i] + bias[i]), of the normal distribution itself
    void (*bias_gelu)(float* x, const float* bias, int n);
    // softmax(q k^T * scale) v
    void (*attend_text)(const TextCall& call);
    // out[i] = x[i] where bit i % 32 of words[i / 32] is 1, else -inf.
    void (*mask)(const float* x, const uint32_t* words, int n, float* out);
};

// Those of the instruction set in use (isa.h).
const VectorKernels& vector_kernels();

// Those of one instruction set; only the ones of this architecture are linked.
extern const VectorKernels kScalarKernels, kAvx2Kernels, kAvx512Kernels, kNeonKernels;

}  // namespace russet
