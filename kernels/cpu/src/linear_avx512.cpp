// The kernels for AVX-512 with VNNI: one register is 16 outputs, one dpbusd multiplies 4 inputs of each.
#include <immintrin.h>

#include "linear_kernels.h"
#include "linear_tiles.h"

namespace russet {
namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

void quantize(const float* x, int k, int stride, int8_t* values, float* scales, int32_t* sums, float* scaled_sums) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    for (int group = 0; group < k / kGroup; ++group, x += kGroup, values += kGroup) {
        const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
        // The largest magnitude as bits: ordered like the floats, with infinity and NaN above them all.
        const int32_t largest = _mm512_reduce_max_epi32(
            _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                             _mm512_and_si512(_mm512_castps_si512(b), magnitude)));
        const float most = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(largest)));
        int32_t sum = 0;
        float scale;
        if (largest >= 0x7f800000 || most < 1e-30f) {
            scale = most < 1e-30f ? 0.0f : __builtin_nanf("");
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), _mm256_setzero_si256());
        } else {
            const __m512 inverse = _mm512_set1_ps(127.0f / most);
            const __m512i qa = _mm512_cvt_roundps_epi32(_mm512_mul_ps(a, inverse), kNearest);
            const __m512i qb = _mm512_cvt_roundps_epi32(_mm512_mul_ps(b, inverse), kNearest);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(values), _mm512_cvtepi32_epi8(qa));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(values + 16), _mm512_cvtepi32_epi8(qb));
            sum = _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
            scale = most / 127.0f;
        }
        const ptrdiff_t at = static_cast<ptrdiff_t>(group) * stride;
        scales[at] = scale;
        sums[at] = sum;
        scaled_sums[at] = scale * static_cast<float>(sum);
    }
}

inline __m512 load_scales(const uint8_t* at, ScaleType type) {
    if (type == ScaleType::Float16) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
    if (type == ScaleType::Float32) return _mm512_loadu_ps(at);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

template <Format format>
inline __m512 load_weights(const uint8_t* at) {
    return load_scales(at, format == Format::Float32    ? ScaleType::Float32
                           : format == Format::Bfloat16 ? ScaleType::Bfloat16
                                                        : ScaleType::Float16);
}

inline __m512i four_inputs(const int8_t* x) {
    int32_t bits;
    __builtin_memcpy(&bits, x, 4);
    return _mm512_set1_epi32(bits);
}

inline void put(float* y, __m512 value, int outputs, Write write) {
    const __mmask16 mask = outputs >= kBlock ? 0xffff : static_cast<__mmask16>((1u << outputs) - 1);
    if (write == Write::Add) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
    _mm512_mask_storeu_ps(y, mask, value);
}

struct Avx512 {
    // Two accumulators, integer and float, for each row and block: 24 of the 32 registers.
    static constexpr int kRows = 6;
    static constexpr int kBlocks = 2;
    static constexpr int kDenseRows = 12;
    static constexpr int kDenseBlocks = 2;

    template <Format format, bool symmetric, int rows, int blocks>
    static inline void quantized(const PackedView& w, const ActivationsView& x, int m, int block, float* y,
                                 ptrdiff_t ldy, Write write) {
        constexpr int kGroupBytes = format == Format::Affine4 ? 256 : 512;
        constexpr int kZeroPoint = format == Format::Affine4 ? 8 : 128;
        const ptrdiff_t block_bytes = w.block_bytes(), block_scale_bytes = w.block_scale_bytes();
        const int scale_bytes = w.scale_type == ScaleType::Float32 ? 4 * kBlock : 2 * kBlock;
        const int scale_step = symmetric ? scale_bytes : 2 * scale_bytes;
        const uint8_t* values = w.values + block * block_bytes;
        const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + block * block_scale_bytes;
        const float *input_scales = x.scales + m, *input_sums = x.scaled_sums + m;
        const int32_t* sums = x.sums + m;
        const int8_t* inputs[rows];
        for (int r = 0; r < rows; ++r) inputs[r] = x.values + static_cast<size_t>(m + r) * x.k;

        __m512 total[rows][blocks];
        for (int r = 0; r < rows; ++r) {
            for (int b = 0; b < blocks; ++b) total[r][b] = _mm512_setzero_ps();
        }
        const int groups = w.k / kGroup;
        for (int group = 0; group < groups; ++group) {
            const ptrdiff_t at = static_cast<ptrdiff_t>(group) * kGroup;
            __m512i product[rows][blocks];
            for (int r = 0; r < rows; ++r) {
                const __m512i start = symmetric ? _mm512_set1_epi32(-kZeroPoint * sums[r]) : _mm512_setzero_si512();
                for (int b = 0; b < blocks; ++b) product[r][b] = start;
            }
            // Four inputs at a time, of all rows and blocks.
            auto multiply = [&](const __m512i (&weights)[blocks], ptrdiff_t k) __attribute__((always_inline)) {
                for (int r = 0; r < rows; ++r) {
                    const __m512i input = four_inputs(inputs[r] + at + k);
                    for (int b = 0; b < blocks; ++b) {
                        product[r][b] = _mm512_dpbusd_epi32(product[r][b], weights[b], input);
                    }
                }
            };
            __m512i weights[blocks];
            if constexpr (format == Format::Affine4) {
                const __m512i low_half = _mm512_set1_epi8(15);
                for (int j = 0; j < 4; ++j) {
                    __m512i packed[blocks];
                    for (int b = 0; b < blocks; ++b) {
                        packed[b] = _mm512_loadu_si512(values + b * block_bytes + j * 64);
                        weights[b] = _mm512_and_si512(packed[b], low_half);
                    }
                    multiply(weights, j * 8);
                    for (int b = 0; b < blocks; ++b) {
                        weights[b] = _mm512_and_si512(_mm512_srli_epi16(packed[b], 4), low_half);
                    }
                    multiply(weights, j * 8 + 4);
                }
            } else {
                for (int j = 0; j < 8; ++j) {
                    for (int b = 0; b < blocks; ++b) {
                        weights[b] = _mm512_loadu_si512(values + b * block_bytes + j * 64);
                    }
                    multiply(weights, j * 4);
                }
            }
            for (int b = 0; b < blocks; ++b) {
                const __m512 scale = load_scales(scales + b * block_scale_bytes, w.scale_type);
                for (int r = 0; r < rows; ++r) {
                    const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(input_scales[r]));
                    total[r][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product[r][b]), both, total[r][b]);
                }
                if constexpr (!symmetric) {
                    const __m512 bias = load_scales(scales + b * block_scale_bytes + scale_bytes, w.scale_type);
                    for (int r = 0; r < rows; ++r) {
                        total[r][b] = _mm512_fmadd_ps(bias, _mm512_set1_ps(input_sums[r]), total[r][b]);
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
            for (int b = 0; b < blocks; ++b) {
                put(y + (m + r) * ldy + (block + b) * kBlock, total[r][b], w.n - (block + b) * kBlock, write);
            }
        }
    }

    template <Format format, int rows, int blocks>
    static inline void dense(const PackedView& w, const ActivationsView& x, int m, int block, float* y, ptrdiff_t ldy,
                             Write write) {
        constexpr int kStep = kBlock * (format == Format::Float32 ? 4 : 2);
        const size_t block_bytes = w.block_bytes();
        const uint8_t* values = w.values + block * block_bytes;
        const float* inputs = x.floats + static_cast<size_t>(m) * x.k;
        __m512 total[rows][blocks];
        for (int r = 0; r < rows; ++r) {
            for (int b = 0; b < blocks; ++b) total[r][b] = _mm512_setzero_ps();
        }
        for (int k = 0; k < x.k; ++k, values += kStep) {
            __m512 weights[blocks];
            for (int b = 0; b < blocks; ++b) weights[b] = load_weights<format>(values + b * block_bytes);
            for (int r = 0; r < rows; ++r) {
                const __m512 input = _mm512_set1_ps(inputs[static_cast<size_t>(r) * x.k + k]);
                for (int b = 0; b < blocks; ++b) total[r][b] = _mm512_fmadd_ps(input, weights[b], total[r][b]);
            }
        }
        for (int r = 0; r < rows; ++r) {
            for (int b = 0; b < blocks; ++b) {
                put(y + (m + r) * ldy + (block + b) * kBlock, total[r][b], w.n - (block + b) * kBlock, write);
            }
        }
    }
};

}  // namespace

const LinearKernels& linear_kernels_avx512() {
    static constexpr LinearKernels kernels{quantize, multiply_tiles<Avx512>};
    return kernels;
}

}  // namespace russet
