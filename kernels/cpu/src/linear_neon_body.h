// The kernels for arm64: 16 outputs are four registers. Included by linear_neon.cpp, linear_neon_dotprod.cpp and
// linear_neon_i8mm.cpp, which say by RUSSET_DOTPROD and RUSSET_I8MM whether these may be used: sdot, four products of
// bytes for each of four outputs in one instruction, and smmla, eight for each of two outputs and two rows.
#pragma once

#include <arm_neon.h>

#include "linear_kernels.h"
#include "linear_quantize.h"
#include "linear_tiles.h"

namespace russet {
namespace {

constexpr int kQuarters = 4;  // registers of a block

inline float32x4_t load_scales(const uint8_t* at, ScaleType type) {
    if (type == ScaleType::Float32) return vld1q_f32(reinterpret_cast<const float*>(at));
    const uint16x4_t bits = vld1_u16(reinterpret_cast<const uint16_t*>(at));
    if (type == ScaleType::Float16) return vcvt_f32_f16(vreinterpret_f16_u16(bits));
    return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
}

template <Format format>
inline float32x4_t load_weights(const uint8_t* at) {
    return load_scales(at, format == Format::Float32    ? ScaleType::Float32
                           : format == Format::Bfloat16 ? ScaleType::Bfloat16
                                                        : ScaleType::Float16);
}

// sum[i] += the products of bytes 4i..4i + 3 of a with the four bytes of b's lane.
template <int lane>
inline int32x4_t dot(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if RUSSET_DOTPROD
    return vdotq_laneq_s32(sum, a, b, lane);
#else
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(b), lane));
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(four)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(a, four));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}

// sum[i] += the products of output i's 32 weights with 32 inputs.
inline int32x4_t dot32(int32x4_t sum, const int8x16_t (&weights)[8], const int8_t* inputs) {
    const int8x16_t left = vld1q_s8(inputs), right = vld1q_s8(inputs + 16);
    sum = dot<0>(sum, weights[0], left);
    sum = dot<1>(sum, weights[1], left);
    sum = dot<2>(sum, weights[2], left);
    sum = dot<3>(sum, weights[3], left);
    sum = dot<0>(sum, weights[4], right);
    sum = dot<1>(sum, weights[5], right);
    sum = dot<2>(sum, weights[6], right);
    return dot<3>(sum, weights[7], right);
}

// The weights of a group and four outputs, four inputs to a register. 8-bit weights come as q - 128, for want of an
// unsigned by signed product.
template <Format format>
inline void unpack(const uint8_t* values, int8x16_t (&weights)[8]) {
    if constexpr (format == Format::Affine4) {
        for (int j = 0; j < 4; ++j) {
            const uint8x16_t packed = vld1q_u8(values + j * 64);
            weights[2 * j] = vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15)));
            weights[2 * j + 1] = vreinterpretq_s8_u8(vshrq_n_u8(packed, 4));
        }
    } else {
        for (int j = 0; j < 8; ++j) {
            weights[j] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(values + j * 64), vdupq_n_u8(128)));
        }
    }
}

// What the rows of a tile have in common: product[r] += the products of the weights with 32 bytes of row r.
#if RUSSET_I8MM
// Two rows times two outputs at once: so of the weights, eight inputs of two outputs to a register, and the same of the
// rows; the last of an odd number of rows is its own partner, at the price of sdot.
template <int rows>
inline void accumulate(const int8x16_t (&weights)[8], const int8_t* const (&inputs)[rows], int32x4_t (&product)[rows]) {
    if constexpr (rows == 1) {
        product[0] = dot32(product[0], weights, inputs[0]);
    } else {
        int8x16_t left[4], right[4];  // outputs 0 and 1, outputs 2 and 3
        for (int j = 0; j < 4; ++j) {
            const int32x4_t four = vreinterpretq_s32_s8(weights[2 * j]);
            const int32x4_t next = vreinterpretq_s32_s8(weights[2 * j + 1]);
            left[j] = vreinterpretq_s8_s32(vzip1q_s32(four, next));
            right[j] = vreinterpretq_s8_s32(vzip2q_s32(four, next));
        }
        for (int r = 0; r < rows; r += 2) {
            const int other = r + 1 < rows ? r + 1 : r;
            int32x4_t a = vdupq_n_s32(0), b = vdupq_n_s32(0);
            for (int j = 0; j < 4; ++j) {
                const int8x16_t both = vcombine_s8(vld1_s8(inputs[r] + 8 * j), vld1_s8(inputs[other] + 8 * j));
                a = vmmlaq_s32(a, both, left[j]);
                b = vmmlaq_s32(b, both, right[j]);
            }
            const int64x2_t low = vreinterpretq_s64_s32(a), high = vreinterpretq_s64_s32(b);
            product[r] = vaddq_s32(product[r], vreinterpretq_s32_s64(vzip1q_s64(low, high)));
            if (other != r) product[other] = vaddq_s32(product[other], vreinterpretq_s32_s64(vzip2q_s64(low, high)));
        }
    }
}
#else
template <int rows>
inline void accumulate(const int8x16_t (&weights)[8], const int8_t* const (&inputs)[rows], int32x4_t (&product)[rows]) {
    for (int r = 0; r < rows; ++r) product[r] = dot32(product[r], weights, inputs[r]);
}
#endif

// Four outputs of which the first `outputs` exist.
inline void put(float* y, float32x4_t value, int outputs, Write write) {
    if (outputs >= 4) {
        vst1q_f32(y, write == Write::Add ? vaddq_f32(vld1q_f32(y), value) : value);
        return;
    }
    float lanes[4];
    vst1q_f32(lanes, value);
    for (int i = 0; i < outputs; ++i) y[i] = write == Write::Add ? y[i] + lanes[i] : lanes[i];
}

struct Neon {
    // 16 registers are the totals of four rows of a block, 8 the weights of a quarter of it.
    static constexpr int kRows = 4;
    static constexpr int kBlocks = 1;
    static constexpr int kDenseRows = 6;
    static constexpr int kDenseBlocks = 1;

    // Magnitudes as bits are ordered like the floats, with infinity and NaN above them all.
    static inline float largest(const float* x) {
        uint32x4_t most = vdupq_n_u32(0);
        for (int i = 0; i < kGroup; i += 4) {
            most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffff)));
        }
        const uint32_t bits = vmaxvq_u32(most);
        float value;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    }

    // The halves of linear_kernels.h: first the 32 high ones, then the 32 low ones.
    template <bool fine>
    static inline int32_t round(const float* x, float inverse, int16_t* values) {
        int8_t* halves = reinterpret_cast<int8_t*>(values);
        int32x4_t total = vdupq_n_s32(0);
        for (int i = 0; i < kGroup; i += 8) {
            const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), inverse));
            const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), inverse));
            total = vaddq_s32(total, vaddq_s32(a, b));
            const int16x8_t q = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
            if constexpr (fine) {
                const int16x8_t high = vshrq_n_s16(vaddq_s16(q, vdupq_n_s16(64)), 7);
                vst1_s8(halves + i, vmovn_s16(high));
                vst1_s8(halves + kGroup + i, vmovn_s16(vsubq_s16(q, vshlq_n_s16(high, 7))));
            } else {
                vst1_s8(halves + i, vmovn_s16(q));
                vst1_s8(halves + kGroup + i, vdup_n_s8(0));
            }
        }
        return vaddvq_s32(total) * (fine ? 1 : 128);
    }

    template <Format format, bool symmetric, int rows, int blocks>
    static inline void quantized(const PackedView& w, const ActivationsView& x, int m, int block, float* y,
                                 ptrdiff_t ldy, Write write) {
        static_assert(blocks == 1);
        constexpr int kGroupBytes = format == Format::Affine4 ? 256 : 512;
        // What the sum of the inputs is still to be multiplied by: less the zero point, and what unpack() took away.
        constexpr int kTaken = format == Format::Affine8 ? 128 : 0;
        constexpr int kMissing = kTaken - (!symmetric ? 0 : format == Format::Affine4 ? 8 : 128);
        const int scale_bytes = w.scale_type == ScaleType::Float32 ? 4 * kBlock : 2 * kBlock;
        const int scale_step = symmetric ? scale_bytes : 2 * scale_bytes;
        const uint8_t* values = w.values + block * w.block_bytes();
        const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + block * w.block_scale_bytes();
        const ActivationGroup* inputs[rows];
        for (int r = 0; r < rows; ++r) inputs[r] = x.row(m + r);

        float32x4_t total[rows][kQuarters];
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < kQuarters; ++c) total[r][c] = vdupq_n_f32(0.0f);
        }
        const int groups = w.k / kGroup;
        for (int group = 0; group < groups; ++group) {
            const int quarter_bytes = scale_bytes / kQuarters;
            const int8_t *high[rows], *low[rows];
            int32_t fine = 0;
            for (int r = 0; r < rows; ++r) {
                high[r] = reinterpret_cast<const int8_t*>(inputs[r][group].values);
                low[r] = high[r] + kGroup;
                fine |= inputs[r][group].fine;
            }
            for (int c = 0; c < kQuarters; ++c) {
                int8x16_t weights[8];
                unpack<format>(values + c * 16, weights);
                const float32x4_t scale = load_scales(scales + c * quarter_bytes, w.scale_type);
                // 128 times the high halves' product, then the low halves' on top of it.
                int32x4_t product[rows];
                for (int r = 0; r < rows; ++r) product[r] = vdupq_n_s32(0);
                accumulate<rows>(weights, high, product);
                for (int r = 0; r < rows; ++r) {
                    product[r] = vshlq_n_s32(product[r], 7);
                    if constexpr (kMissing != 0) {
                        product[r] = vaddq_s32(product[r], vdupq_n_s32(kMissing * inputs[r][group].sum));
                    }
                }
                if (fine) accumulate<rows>(weights, low, product);
                for (int r = 0; r < rows; ++r) {
                    const float32x4_t both = vmulq_n_f32(scale, inputs[r][group].scale);
                    total[r][c] = vfmaq_f32(total[r][c], vcvtq_f32_s32(product[r]), both);
                }
                if constexpr (!symmetric) {
                    const float32x4_t bias = load_scales(scales + scale_bytes + c * quarter_bytes, w.scale_type);
                    for (int r = 0; r < rows; ++r) {
                        total[r][c] = vfmaq_f32(total[r][c], bias, vdupq_n_f32(inputs[r][group].scaled_sum));
                    }
                }
            }
            values += kGroupBytes;
            if (((group + 1) & (w.groups_per_scale - 1)) == 0) scales += scale_step;
        }
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < kQuarters; ++c) {
                const int column = block * kBlock + c * 4;
                put(y + (m + r) * ldy + column, total[r][c], w.n - column, write);
            }
        }
    }

    template <Format format, int rows, int blocks>
    static inline void dense(const PackedView& w, const ActivationsView& x, int m, int block, float* y, ptrdiff_t ldy,
                             Write write) {
        static_assert(blocks == 1);
        constexpr int kValueBytes = format == Format::Float32 ? 4 : 2;
        const uint8_t* values = w.values + block * w.block_bytes();
        const float* inputs = x.floats + static_cast<size_t>(m) * x.k;
        float32x4_t total[rows][kQuarters];
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < kQuarters; ++c) total[r][c] = vdupq_n_f32(0.0f);
        }
        for (int k = 0; k < x.k; ++k, values += kBlock * kValueBytes) {
            for (int c = 0; c < kQuarters; ++c) {
                const float32x4_t weights = load_weights<format>(values + c * 4 * kValueBytes);
                for (int r = 0; r < rows; ++r) {
                    total[r][c] = vfmaq_f32(total[r][c], weights, vdupq_n_f32(inputs[static_cast<size_t>(r) * x.k + k]));
                }
            }
        }
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < kQuarters; ++c) {
                const int column = block * kBlock + c * 4;
                put(y + (m + r) * ldy + column, total[r][c], w.n - column, write);
            }
        }
    }
};

}  // namespace
}  // namespace russet
