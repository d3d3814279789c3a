// The kernels for AVX2: 16 outputs are two registers; weights and activations meet as 16-bit integers.
#include <immintrin.h>

#include "linear_kernels.h"
#include "linear_quantize.h"
#include "linear_tiles.h"

namespace russet {
namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

inline __m256i magnitudes(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }

inline int32_t largest_of(__m256i v) {
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

inline int32_t sum_of(__m256i v) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

inline __m256 load_scales(const uint8_t* at, ScaleType type) {
    if (type == ScaleType::Float16) return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
    if (type == ScaleType::Float32) return _mm256_loadu_ps(reinterpret_cast<const float*>(at));
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

template <Format format>
inline __m256 load_weights(const uint8_t* at) {
    return load_scales(at, format == Format::Float32    ? ScaleType::Float32
                           : format == Format::Bfloat16 ? ScaleType::Bfloat16
                                                        : ScaleType::Float16);
}

inline __m256i load_bytes(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

inline __m256i two_inputs(const int16_t* x) {
    int32_t bits;
    __builtin_memcpy(&bits, x, 4);
    return _mm256_set1_epi32(bits);
}

// Eight outputs of which the first `outputs` exist.
inline void put(float* y, __m256 value, int outputs, Write write) {
    if (outputs >= 8) {
        if (write == Write::Add) value = _mm256_add_ps(_mm256_loadu_ps(y), value);
        _mm256_storeu_ps(y, value);
        return;
    }
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(outputs), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    if (write == Write::Add) value = _mm256_add_ps(_mm256_maskload_ps(y, mask), value);
    _mm256_maskstore_ps(y, mask, value);
}

struct Avx2 {
    static constexpr int kRows = 4;
    static constexpr int kBlocks = 1;
    static constexpr int kDenseRows = 3;
    static constexpr int kDenseBlocks = 2;

    // Magnitudes as bits are ordered like the floats, with infinity and NaN above them all.
    static inline float largest(const float* x) {
        __m256i most = _mm256_setzero_si256();
        for (int i = 0; i < kGroup; i += 8) most = _mm256_max_epi32(most, magnitudes(_mm256_loadu_ps(x + i)));
        return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(largest_of(most))));
    }

    template <bool fine>
    static inline int32_t round(const float* x, float inverse, int16_t* values) {
        __m256i q[4];
        for (int i = 0; i < 4; ++i) {
            const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(inverse));
            q[i] = _mm256_cvtps_epi32(_mm256_round_ps(scaled, kNearest));
            if constexpr (!fine) q[i] = _mm256_slli_epi32(q[i], 7);
        }
        // Each four as 0, 2, 1, 3, the order in which group_products unpacks the weights. Packing works within
        // 128-bit lanes: the permutation puts the fours back in order.
        const __m256i pairs = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15,  //
                                               0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
        for (int i = 0; i < 4; i += 2) {
            const __m256i fours = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[i], q[i + 1]), 0xd8);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + 8 * i), _mm256_shuffle_epi8(fours, pairs));
        }
        return sum_of(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
    }

    // 16 outputs of `rows` rows, one group: exact products. Weights are unpacked to 16 bits, where sums of pairs
    // of products fit 32 bits; through maddubs they would need the inputs in two halves, and 8-bit weights the sign trick.
    template <Format format, int rows>
    static inline void group_products(const uint8_t* values, const ActivationGroup* const (&inputs)[rows], int group,
                                      __m256i (&product)[rows][2]) {
        for (int r = 0; r < rows; ++r) product[r][0] = product[r][1] = _mm256_setzero_si256();
        // Two inputs of all rows: those at `at` in the order of round().
        auto multiply = [&](__m256i left, __m256i right, int at) __attribute__((always_inline)) {
            for (int r = 0; r < rows; ++r) {
                const __m256i x = two_inputs(inputs[r][group].values + at);
                product[r][0] = _mm256_add_epi32(product[r][0], _mm256_madd_epi16(left, x));
                product[r][1] = _mm256_add_epi32(product[r][1], _mm256_madd_epi16(right, x));
            }
        };
        constexpr int kRegisters = format == Format::Affine4 ? 4 : 8;
        const __m256i low = _mm256_set1_epi16(format == Format::Affine4 ? 15 : 255);
        for (int j = 0; j < kRegisters; ++j) {
            const __m256i left = load_bytes(values + j * 64), right = load_bytes(values + j * 64 + 32);
            if constexpr (format == Format::Affine4) {
                auto nibbles = [&](__m256i packed, int shift) __attribute__((always_inline)) {
                    return _mm256_and_si256(_mm256_srli_epi16(packed, shift), low);
                };
                multiply(_mm256_and_si256(left, low), _mm256_and_si256(right, low), j * 8);
                multiply(nibbles(left, 8), nibbles(right, 8), j * 8 + 2);
                multiply(nibbles(left, 4), nibbles(right, 4), j * 8 + 4);
                multiply(_mm256_srli_epi16(left, 12), _mm256_srli_epi16(right, 12), j * 8 + 6);
            } else {
                multiply(_mm256_and_si256(left, low), _mm256_and_si256(right, low), j * 4);
                multiply(_mm256_srli_epi16(left, 8), _mm256_srli_epi16(right, 8), j * 4 + 2);
            }
        }
    }

    template <Format format, bool symmetric, int rows, int blocks>
    static inline void quantized(const PackedView& w, const ActivationsView& x, int m, int block, float* y,
                                 ptrdiff_t ldy, Write write) {
        static_assert(blocks == 1);
        constexpr int kGroupBytes = format == Format::Affine4 ? 256 : 512;
        constexpr int kZeroPoint = format == Format::Affine4 ? 8 : 128;
        const int groups = w.k / kGroup;
        const int scale_bytes = w.scale_type == ScaleType::Float32 ? 4 * kBlock : 2 * kBlock;
        const int scale_step = symmetric ? scale_bytes : 2 * scale_bytes;
        const uint8_t* values = w.values + block * w.block_bytes();
        const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + block * w.block_scale_bytes();
        const ActivationGroup* inputs[rows];
        for (int r = 0; r < rows; ++r) inputs[r] = x.row(m + r);

        __m256 total[rows][2];
        for (int r = 0; r < rows; ++r) total[r][0] = total[r][1] = _mm256_setzero_ps();
        for (int group = 0; group < groups; ++group, values += kGroupBytes) {
            __m256i product[rows][2];
            group_products<format, rows>(values, inputs, group, product);
            for (int half = 0; half < 2; ++half) {
                const uint8_t* at = scales + half * scale_bytes / 2;
                const __m256 scale = load_scales(at, w.scale_type);
                for (int r = 0; r < rows; ++r) {
                    if constexpr (symmetric) {
                        product[r][half] = _mm256_sub_epi32(product[r][half], _mm256_set1_epi32(kZeroPoint * inputs[r][group].sum));
                    }
                    const __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(inputs[r][group].scale));
                    total[r][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product[r][half]), both, total[r][half]);
                }
                if constexpr (!symmetric) {
                    const __m256 bias = load_scales(at + scale_bytes, w.scale_type);
                    for (int r = 0; r < rows; ++r) {
                        total[r][half] = _mm256_fmadd_ps(bias, _mm256_set1_ps(inputs[r][group].scaled_sum), total[r][half]);
                    }
                }
            }
            if (((group + 1) & (w.groups_per_scale - 1)) == 0) scales += scale_step;
        }
        for (int r = 0; r < rows; ++r) {
            for (int half = 0; half < 2; ++half) {
                const int column = block * kBlock + half * 8;
                if (column < w.n) put(y + (m + r) * ldy + column, total[r][half], w.n - column, write);
            }
        }
    }

    template <Format format, int rows, int blocks>
    static inline void dense(const PackedView& w, const ActivationsView& x, int m, int block, float* y, ptrdiff_t ldy,
                             Write write) {
        constexpr int kValueBytes = format == Format::Float32 ? 4 : 2;
        constexpr int kHalves = 2 * blocks;
        const size_t block_bytes = w.block_bytes();
        const uint8_t* values = w.values + block * block_bytes;
        const float* inputs = x.floats + static_cast<size_t>(m) * x.k;
        __m256 total[rows][kHalves];
        for (int r = 0; r < rows; ++r) {
            for (int h = 0; h < kHalves; ++h) total[r][h] = _mm256_setzero_ps();
        }
        for (int k = 0; k < x.k; ++k, values += kBlock * kValueBytes) {
            __m256 input[rows];
            for (int r = 0; r < rows; ++r) input[r] = _mm256_set1_ps(inputs[static_cast<size_t>(r) * x.k + k]);
            for (int h = 0; h < kHalves; ++h) {
                const __m256 weights = load_weights<format>(values + h / 2 * block_bytes + h % 2 * 8 * kValueBytes);
                for (int r = 0; r < rows; ++r) total[r][h] = _mm256_fmadd_ps(input[r], weights, total[r][h]);
            }
        }
        for (int r = 0; r < rows; ++r) {
            for (int h = 0; h < kHalves; ++h) {
                const int column = block * kBlock + h * 8;
                if (column < w.n) put(y + (m + r) * ldy + column, total[r][h], w.n - column, write);
            }
        }
    }
};

}  // namespace

const LinearKernels& linear_kernels_avx2() {
    static constexpr LinearKernels kernels{quantize_row<Avx2>, multiply_tiles<Avx2>};
    return kernels;
}

}  // namespace russet
