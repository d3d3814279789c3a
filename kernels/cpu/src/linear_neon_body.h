// The kernels for arm64: 16 outputs are four registers. Included by linear_neon.cpp and linear_neon_dotprod.cpp, which
// say by RUSSET_DOTPROD whether sdot, four products of bytes in one instruction, may be used.
#pragma once

#include <arm_neon.h>

#include "linear_kernels.h"
#include "linear_tiles.h"

namespace russet {
namespace {

constexpr int kQuarters = 4;  // registers of a block

void quantize(const float* x, int k, int stride, int8_t* values, float* scales, int32_t* sums, float* scaled_sums) {
    for (int group = 0; group < k / kGroup; ++group, x += kGroup, values += kGroup) {
        float32x4_t v[8];
        // The largest magnitude as bits: ordered like the floats, with infinity and NaN above them all.
        uint32x4_t most_bits = vdupq_n_u32(0);
        for (int i = 0; i < 8; ++i) {
            v[i] = vld1q_f32(x + 4 * i);
            most_bits = vmaxq_u32(most_bits, vandq_u32(vreinterpretq_u32_f32(v[i]), vdupq_n_u32(0x7fffffff)));
        }
        const uint32_t largest = vmaxvq_u32(most_bits);
        float most;
        __builtin_memcpy(&most, &largest, 4);
        int32_t sum = 0;
        float scale;
        if (largest >= 0x7f800000u || most < 1e-30f) {
            scale = most < 1e-30f ? 0.0f : __builtin_nanf("");
            __builtin_memset(values, 0, kGroup);
        } else {
            const float inverse = 127.0f / most;
            int32x4_t total = vdupq_n_s32(0);
            for (int i = 0; i < 8; i += 2) {
                const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(v[i], inverse));
                const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(v[i + 1], inverse));
                total = vaddq_s32(total, vaddq_s32(a, b));
                vst1_s8(values + 4 * i, vmovn_s16(vcombine_s16(vmovn_s32(a), vmovn_s32(b))));
            }
            sum = vaddvq_s32(total);
            scale = most / 127.0f;
        }
        const ptrdiff_t at = static_cast<ptrdiff_t>(group) * stride;
        scales[at] = scale;
        sums[at] = sum;
        scaled_sums[at] = scale * static_cast<float>(sum);
    }
}

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

inline int8x16_t four_inputs(const int8_t* x) {
    int32_t bits;
    __builtin_memcpy(&bits, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(bits));
}

// sum[i] += the products of bytes 4i..4i + 3.
inline int32x4_t dot(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if RUSSET_DOTPROD
    return vdotq_s32(sum, a, b);
#else
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(a, b));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}

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
    // Three rows of a block: 24 of the 32 registers accumulate.
    static constexpr int kRows = 3;
    static constexpr int kBlocks = 1;
    static constexpr int kDenseRows = 6;
    static constexpr int kDenseBlocks = 1;

    template <Format format, bool symmetric, int rows, int blocks>
    static inline void quantized(const PackedView& w, const ActivationsView& x, int m, int block, float* y,
                                 ptrdiff_t ldy, Write write) {
        static_assert(blocks == 1);
        constexpr int kGroupBytes = format == Format::Affine4 ? 256 : 512;
        constexpr int kZeroPoint = format == Format::Affine4 ? 8 : 128;
        const int scale_bytes = w.scale_type == ScaleType::Float32 ? 4 * kBlock : 2 * kBlock;
        const int scale_step = symmetric ? scale_bytes : 2 * scale_bytes;
        const uint8_t* values = w.values + block * w.block_bytes();
        const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + block * w.block_scale_bytes();
        const float *input_scales = x.scales + m, *input_sums = x.scaled_sums + m;
        const int32_t* sums = x.sums + m;
        const int8_t* inputs[rows];
        for (int r = 0; r < rows; ++r) inputs[r] = x.values + static_cast<size_t>(m + r) * x.k;

        float32x4_t total[rows][kQuarters];
        for (int r = 0; r < rows; ++r) {
            for (int c = 0; c < kQuarters; ++c) total[r][c] = vdupq_n_f32(0.0f);
        }
        const int groups = w.k / kGroup;
        for (int group = 0; group < groups; ++group) {
            const ptrdiff_t at = static_cast<ptrdiff_t>(group) * kGroup;
            int32x4_t product[rows][kQuarters];
            for (int r = 0; r < rows; ++r) {
                // 8-bit weights are multiplied as q - 128, for want of an unsigned by signed product.
                const int start = (format == Format::Affine8 ? 128 * sums[r] : 0) - (symmetric ? kZeroPoint * sums[r] : 0);
                for (int c = 0; c < kQuarters; ++c) product[r][c] = vdupq_n_s32(start);
            }
            if constexpr (format == Format::Affine4) {
                for (int j = 0; j < 4; ++j) {
                    for (int c = 0; c < kQuarters; ++c) {
                        const uint8x16_t packed = vld1q_u8(values + j * 64 + c * 16);
                        const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15)));
                        const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(packed, 4));
                        for (int r = 0; r < rows; ++r) {
                            product[r][c] = dot(product[r][c], low, four_inputs(inputs[r] + at + j * 8));
                            product[r][c] = dot(product[r][c], high, four_inputs(inputs[r] + at + j * 8 + 4));
                        }
                    }
                }
            } else {
                for (int j = 0; j < 8; ++j) {
                    for (int c = 0; c < kQuarters; ++c) {
                        const int8x16_t centred =
                            vreinterpretq_s8_u8(veorq_u8(vld1q_u8(values + j * 64 + c * 16), vdupq_n_u8(128)));
                        for (int r = 0; r < rows; ++r) {
                            product[r][c] = dot(product[r][c], centred, four_inputs(inputs[r] + at + j * 4));
                        }
                    }
                }
            }
            const int quarter_bytes = scale_bytes / kQuarters;
            for (int c = 0; c < kQuarters; ++c) {
                const float32x4_t scale = load_scales(scales + c * quarter_bytes, w.scale_type);
                for (int r = 0; r < rows; ++r) {
                    const float32x4_t both = vmulq_n_f32(scale, input_scales[r]);
                    total[r][c] = vfmaq_f32(total[r][c], vcvtq_f32_s32(product[r][c]), both);
                }
                if constexpr (!symmetric) {
                    const float32x4_t bias = load_scales(scales + scale_bytes + c * quarter_bytes, w.scale_type);
                    for (int r = 0; r < rows; ++r) {
                        total[r][c] = vfmaq_f32(total[r][c], bias, vdupq_n_f32(input_sums[r]));
                    }
                }
            }
            values += kGroupBytes;
            if (((group + 1) & (w.groups_per_scale - 1)) == 0) scales += scale_step;
            input_scales += x.stride;
            input_sums += x.stride;
            sums += x.stride;
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
