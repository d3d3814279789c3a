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
constexpr float kLargest = 16256.0f;      // magnitude of a quantized activation, 127 * 128
constexpr float kLargestCoarse = 127.0f;  // the same in steps of 128
constexpr float kCoarseUpTo = 1.75f;      // see Rounding

enum class Format : uint8_t { Affine4, Affine8, Float32, Bfloat16, Float16 };
enum class ScaleType : uint8_t { Float32, Bfloat16, Float16 };
enum class Write : uint8_t { Store, Add };

// How finely activations are rounded. Fine: every group of 32 to 15 bits. Mixed: to 8 bits where the group's largest
// value is at most kCoarseUpTo times the mean of the row's groups' largest values, and to 15 bits where it is larger,
// because the error of 8 bits is a part of that value: few groups hold most of it. On SmolLM2-135M a tenth of the groups
// are fine; the mean KL divergence from float32 is 0.0006, of 8 bits alone 0.003, of 15 bits 0.000001.
// A row's rounding depends on that row alone.
enum class Rounding : uint8_t { Fine, Mixed };

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

// 32 activations of a row, quantized: x[i] is about scale * q[i] with an integer q of -16256..16256, a multiple of 128
// where the group is coarse (Rounding). All that a product needs of the group lies together: rows are written by several
// threads at once and read side by side.
//
// How a group's 32 integers lie in its 64 bytes is up to the instruction set, which both writes and reads them:
//
//     scalar           as they are
//     AVX2             as they are, but each four in the order 0, 2, 1, 3: with pairs of weights unpacked to 16 bits
//     VNNI, AMX, NEON  q = 128 * high + low: 32 bytes high, -127..127, then 32 bytes low, -64..63, since products of
//                      bytes are what is fast there, and weights unpacked once serve both;
//                      the low halves of a coarse group are zeros, and their products may be left out
//
// A group's product is the same exact integer by each way: at most 255 * 16256 * 32, well inside 32 bits. The sums
// that meet the biases are of the integers, not of the floats, deliberately: so the error of rounding is multiplied by
// the weights, whose mean is about zero, and not by their unsigned part alone.
struct ActivationGroup {
    int16_t values[kGroup];  // laid out as above
    float scale;
    float scaled_sum;  // scale * sum
    int32_t sum;       // of the integers
    int32_t fine;      // 1 where not coarse
};

struct ActivationsView {
    int rows, k;
    const ActivationGroup* groups;  // [rows][k / 32]
    const float* floats;            // [rows][k], for dense weights

    const ActivationGroup* row(int m) const { return groups + static_cast<size_t>(m) * (k / kGroup); }
};

struct LinearKernels {
    // One row of k floats to k / 32 groups.
    void (*quantize)(const float* x, int k, Rounding rounding, ActivationGroup* out);
    // y[m * ldy + n] for rows m0..m1 and the outputs of blocks b0..b1 (those below w.n).
    void (*multiply)(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y,
                     ptrdiff_t ldy, Write write);
};

const LinearKernels& linear_kernels_scalar();
#if defined(__x86_64__)
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx512();
const LinearKernels& linear_kernels_amx();
const LinearKernels& linear_kernels_amx_emulated();
#elif defined(__aarch64__)
const LinearKernels& linear_kernels_neon();
const LinearKernels& linear_kernels_neon_dotprod();
const LinearKernels& linear_kernels_neon_i8mm();
#endif

}  // namespace russet
