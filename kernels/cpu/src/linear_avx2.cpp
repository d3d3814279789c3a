// The kernels for AVX2: 16 outputs are two registers; products of bytes go through 16 bits.
#include <immintrin.h>

#include "linear_kernels.h"
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

void quantize(const float* x, int k, int stride, int8_t* values, float* scales, int32_t* sums, float* scaled_sums) {
    for (int group = 0; group < k / kGroup; ++group, x += kGroup, values += kGroup) {
        __m256 v[4];
        for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
        // The largest magnitude as bits: ordered like the floats, with infinity and NaN above them all.
        const int32_t largest = largest_of(_mm256_max_epi32(_mm256_max_epi32(magnitudes(v[0]), magnitudes(v[1])),
                                                            _mm256_max_epi32(magnitudes(v[2]), magnitudes(v[3]))));
        const float most = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(largest)));
        int32_t sum = 0;
        float scale;
        if (largest >= 0x7f800000 || most < 1e-30f) {
            scale = most < 1e-30f ? 0.0f : __builtin_nanf("");
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), _mm256_setzero_si256());
        } else {
            const __m256 inverse = _mm256_set1_ps(127.0f / most);
            __m256i q[4];
            for (int i = 0; i < 4; ++i) {
                q[i] = _mm256_cvtps_epi32(_mm256_round_ps(_mm256_mul_ps(v[i], inverse), kNearest));
            }
            sum = sum_of(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
            // Packing works within 128-bit lanes: the permutation puts the fours back in order.
            const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(values),
                                _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
            scale = most / 127.0f;
        }
        const ptrdiff_t at = static_cast<ptrdiff_t>(group) * stride;
        scales[at] = scale;
        sums[at] = sum;
        scaled_sums[at] = scale * static_cast<float>(sum);
    }
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

inline __m256i four_inputs(const int8_t* x) {
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

    // Eight outputs (half a block) of `rows` rows, one group: exact products.
    template <Format format, int rows>
    static inline void group_products(const uint8_t* values, const int8_t* inputs, int stride, const int32_t* sums,
                                      __m256i (&product)[rows]) {
        const __m256i ones = _mm256_set1_epi16(1);
        if constexpr (format == Format::Affine4) {
            // Pairs of products are at most 15 * 127 * 2; eight of them still fit 16 bits.
            const __m256i low_half = _mm256_set1_epi8(15);
            __m256i pairs[rows];
            for (int j = 0; j < 4; ++j) {
                const __m256i packed = load_bytes(values + j * 64);
                const __m256i low = _mm256_and_si256(packed, low_half);
                const __m256i high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low_half);
                for (int r = 0; r < rows; ++r) {
                    const int8_t* x = inputs + static_cast<ptrdiff_t>(r) * stride + j * 8;
                    const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(low, four_inputs(x)),
                                                         _mm256_maddubs_epi16(high, four_inputs(x + 4)));
                    pairs[r] = j == 0 ? sum : _mm256_add_epi16(pairs[r], sum);
                }
            }
            for (int r = 0; r < rows; ++r) product[r] = _mm256_madd_epi16(pairs[r], ones);
        } else {
            // 255 * 127 * 2 does not fit 16 bits, 128 * 127 * 2 does: multiply |q - 128| by the input with the sign
            // of q - 128, and add the 128 * sum that is missing.
            const __m256i middle = _mm256_set1_epi8(-128);
            for (int r = 0; r < rows; ++r) product[r] = _mm256_set1_epi32(128 * sums[r]);
            for (int j = 0; j < 8; ++j) {
                const __m256i centred = _mm256_xor_si256(load_bytes(values + j * 64), middle);
                const __m256i magnitude = _mm256_abs_epi8(centred);
                for (int r = 0; r < rows; ++r) {
                    const __m256i x = four_inputs(inputs + static_cast<ptrdiff_t>(r) * stride + j * 4);
                    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, centred));
                    product[r] = _mm256_add_epi32(product[r], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
    }

    template <Format format, bool symmetric, int rows>
    static inline void half_block(const PackedView& w, const ActivationsView& x, int m, int block, int half, float* y,
                                  ptrdiff_t ldy, Write write) {
        constexpr int kGroupBytes = format == Format::Affine4 ? 256 : 512;
        constexpr int kZeroPoint = format == Format::Affine4 ? 8 : 128;
        const int groups = w.k / kGroup;
        const int scale_bytes = w.scale_type == ScaleType::Float32 ? 4 * kBlock : 2 * kBlock;
        const int scale_step = symmetric ? scale_bytes : 2 * scale_bytes;
        const uint8_t* values = w.values + block * w.block_bytes() + half * 32;
        const uint8_t* scales =
            static_cast<const uint8_t*>(w.scales) + block * w.block_scale_bytes() + half * scale_bytes / 2;
        const int8_t* inputs = x.values + static_cast<size_t>(m) * x.k;
        const float *input_scales = x.scales + m, *input_sums = x.scaled_sums + m;
        const int32_t* sums = x.sums + m;

        __m256 total[rows];
        for (int r = 0; r < rows; ++r) total[r] = _mm256_setzero_ps();
        for (int group = 0; group < groups; ++group, values += kGroupBytes, inputs += kGroup) {
            __m256i product[rows];
            group_products<format, rows>(values, inputs, x.k, sums, product);
            const __m256 scale = load_scales(scales, w.scale_type);
            for (int r = 0; r < rows; ++r) {
                if constexpr (symmetric) {
                    product[r] =
                        _mm256_sub_epi32(product[r], _mm256_set1_epi32(kZeroPoint * sums[r]));
                }
                const __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(input_scales[r]));
                total[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product[r]), both, total[r]);
            }
            if constexpr (!symmetric) {
                const __m256 bias = load_scales(scales + scale_bytes, w.scale_type);
                for (int r = 0; r < rows; ++r) {
                    total[r] = _mm256_fmadd_ps(bias, _mm256_set1_ps(input_sums[r]), total[r]);
                }
            }
            if (((group + 1) & (w.groups_per_scale - 1)) == 0) scales += scale_step;
            input_scales += x.stride;
            input_sums += x.stride;
            sums += x.stride;
        }
        const int column = block * kBlock + half * 8;
        for (int r = 0; r < rows; ++r) put(y + (m + r) * ldy + column, total[r], w.n - column, write);
    }

    template <Format format, bool symmetric, int rows, int blocks>
    static inline void quantized(const PackedView& w, const ActivationsView& x, int m, int block, float* y,
                                 ptrdiff_t ldy, Write write) {
        for (int half = 0; half < 2; ++half) {
            if (w.n > block * kBlock + half * 8) half_block<format, symmetric, rows>(w, x, m, block, half, y, ldy, write);
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
    static constexpr LinearKernels kernels{quantize, multiply_tiles<Avx2>};
    return kernels;
}

}  // namespace russet
