// The packed weight layout, and the kernels of one instruction set that read it. Plain data only: files compiled for
// one instruction set include this and nothing else of ours (isa.h says why).
//
// A matrix [n outputs, k inputs] is stored as blocks of 16 outputs side by side, each block contiguous over all of k,
// so that one vector register holds the same inputs of 16 outputs and a sweep over a block reads memory in order. The
// last block is padded with zeros.
//
// Quantized values, per block, per 32 inputs (c = output in the block, q = unsigned 4- or 8-bit integer):
//
//     8 bits, 512 bytes:  byte [j][c][i] = q[c][4j + i]                                    j < 8, i < 4
//     4 bits, 256 bytes:  byte [j][c][i] = q[c][8j + i] | q[c][8j + 4 + i] << 4            j < 4, i < 4
//
// 64 bytes of it are one operand of VNNI's dpbusd (16 lanes of 4 bytes), or one row of an AMX tile.
// Scales, per block, per scale group (32, 64 or 128 inputs): 16 scales, then 16 biases unless symmetric.
// Dense values, per block, per input: 16 values.
#pragma once

#include <cstddef>
#include <cstdint>

namespace russet {

constexpr int kBlock = 16;  // outputs side by side
constexpr int kGroup = 32;  // inputs that share one activation scale
constexpr float kLargest = 16256.0f;  // magnitude of a quantized activation, 127 * 128

enum class Format : uint8_t { Affine4, Affine8, Float32, Bfloat16, Float16 };
enum class ScaleType : uint8_t { Float32, Bfloat16, Float16 };
enum class Write : uint8_t { Store, Add };

struct PackedView {
    const uint8_t* values;
    const void* scales;  // null where dense
    int n, k;
    int blocks;  // ceil(n / 16)
    Format format;
    ScaleType scale_type;
    // The bias of every group is -2^(bits-1) * its scale (GGUF's Q4_0 and Q8_0), so it is not stored.
    bool symmetric;
    int groups_per_scale;  // 1, 2 or 4 activation groups of 32 share a weight scale

    bool quantized() const { return format == Format::Affine4 || format == Format::Affine8; }
    int groups() const { return k / kGroup; }
    int zero_point() const { return format == Format::Affine4 ? 8 : 128; }
    size_t block_bytes() const {
        switch (format) {
            case Format::Affine4:
                return static_cast<size_t>(k) * kBlock / 2;
            case Format::Affine8:
                return static_cast<size_t>(k) * kBlock;
            case Format::Float32:
                return static_cast<size_t>(k) * kBlock * 4;
            default:
                return static_cast<size_t>(k) * kBlock * 2;
        }
    }
    size_t scale_bytes() const { return scale_type == ScaleType::Float32 ? 4 : 2; }
    // Scales (and biases) of one block.
    size_t block_scale_bytes() const {
        return static_cast<size_t>(groups() / groups_per_scale) * kBlock * (symmetric ? 1 : 2) * scale_bytes();
    }
};

// Rows of activations. Quantized: x[m][k] is about scales[k / 32][m] * q[m][k] with an integer q of -16256..16256.
// (Eight bits are too few: with them SmolLM2-135M's greedy answers differ from float32's. The rows of one tile use the
// scales of one group together, hence their order.)
//
// How a group's 32 integers lie in its 64 bytes is up to the instruction set, which both writes and reads them:
//
//     scalar           as they are
//     AVX2             as they are, but each four in the order 0, 2, 1, 3: with pairs of weights unpacked to 16 bits
//     VNNI, NEON       q = 128 * high + low: 32 bytes high, -127..127, then 32 bytes low, -64..63, since products of
//                      bytes are what is fast there, and weights unpacked once serve both
//
// A group's product is the same exact integer by each way: at most 255 * 16256 * 32, well inside 32 bits. The sums
// that meet the biases are of the integers, not of the floats, deliberately: so the error of rounding is multiplied by
// the weights, whose mean is about zero, and not by their unsigned part alone.
struct ActivationsView {
    int rows, k;
    int stride;                // of the scales, sums and scaled sums from one group to the next: at least rows
    const int16_t* values;     // [rows][k], 64 bytes a group, laid out as above
    const float* scales;       // [k / 32][stride]
    const int32_t* sums;       // [k / 32][stride], of the integers
    const float* scaled_sums;  // [k / 32][stride], scales * sums
    const float* floats;       // [rows][k], for dense weights
};

struct LinearKernels {
    // One row of k floats to k values and k / 32 scales, sums and scaled sums, which lie `stride` apart.
    void (*quantize)(const float* x, int k, int stride, int16_t* values, float* scales, int32_t* sums,
                     float* scaled_sums);
    // y[m * ldy + n] for rows m0..m1 and the outputs of blocks b0..b1 (those below w.n).
    void (*multiply)(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y,
                     ptrdiff_t ldy, Write write);
};

const LinearKernels& linear_kernels_scalar();
#if defined(__x86_64__)
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx512();
#elif defined(__aarch64__)
const LinearKernels& linear_kernels_neon();
const LinearKernels& linear_kernels_neon_dotprod();
#endif

}  // namespace russet
