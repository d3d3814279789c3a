// The kernels for AVX-512 with VNNI: one register is 16 outputs, one dpbusd multiplies 4 inputs of each.
#include <immintrin.h>

#include "linear_avx512.h"
#include "linear_kernels.h"
#include "linear_quantize.h"
#include "linear_tiles.h"

namespace russet {
namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

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

// work(Number<0>), work(Number<1>) .. work(Number<count - 1>): a loop that is surely unrolled, so that what it indexes
// stays in registers.
template <int n>
struct Number {
    static constexpr int value = n;
};
template <int count, class Work>
__attribute__((always_inline)) inline void each(const Work& work) {
    if constexpr (count > 0) {
        each<count - 1>(work);
        work(Number<count - 1>());
    }
}

struct Avx512 {
    // One block at a time reads memory in one sweep, which is fastest where few rows leave it the bottleneck; many rows
    // reach the same rate of dpbusd as with two blocks. 8 rows' totals, 8 registers of weights, 4 rows' products.
    static constexpr int kRows = 8;
    static constexpr int kBlocks = 1;
    static constexpr int kTogether = 4;
    static constexpr int kDenseRows = 12;
    static constexpr int kDenseBlocks = 2;
    // Bytes ahead of the weights in use. The hardware's prefetcher alone does not keep up where several rows slow the
    // sweep down (8 rows of 1536 x 576: 78 to 54 us); at one row it does better without help.
    static constexpr int kAhead = 2048;

    // Magnitudes as bits are ordered like the floats, with infinity and NaN above them all.
    static inline float largest(const float* x) {
        const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
        const int32_t bits = _mm512_reduce_max_epi32(
            _mm512_max_epi32(_mm512_and_si512(_mm512_loadu_si512(x), magnitude),
                             _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude)));
        return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    }

    // The halves of linear_kernels.h: first the 32 high ones, then the 32 low ones.
    template <bool fine>
    static inline int32_t round(const float* x, float inverse, int16_t* values) {
        __m512i sum = _mm512_setzero_si512();
        for (int i = 0; i < 2; ++i) {
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), _mm512_set1_ps(inverse));
            const __m512i q = _mm512_cvt_roundps_epi32(scaled, kNearest);
            sum = _mm512_add_epi32(sum, q);
            __m512i high = q, low = _mm512_setzero_si512();
            if constexpr (fine) {
                high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), 7);
                low = _mm512_sub_epi32(q, _mm512_slli_epi32(high, 7));
            }
            __m128i* halves = reinterpret_cast<__m128i*>(values) + i;
            _mm_storeu_si128(halves, _mm512_cvtepi32_epi8(high));
            _mm_storeu_si128(halves + 2, _mm512_cvtepi32_epi8(low));
        }
        return _mm512_reduce_add_epi32(sum) * (fine ? 1 : 128);
    }

    // product[r] += the dots of the weights with 32 bytes of each row.
    template <int rows>
    static inline void accumulate(const __m512i (&weights)[8], const int8_t* const (&inputs)[rows],
                                  __m512i (&product)[rows]) {
        for (int j = 0; j < 8; ++j) {
            for (int r = 0; r < rows; ++r) {
                product[r] = _mm512_dpbusd_epi32(product[r], weights[j], four_inputs(inputs[r] + 4 * j));
            }
        }
    }

    template <Format format, bool symmetric, int rows, int blocks>
    static inline void quantized(const PackedView& w, const ActivationsView& x, int m, int block, float* y,
                                 ptrdiff_t ldy, Write write) {
        static_assert(blocks == 1);
        constexpr int kGroupBytes = format == Format::Affine4 ? 256 : 512;
        constexpr int kZeroPoint = format == Format::Affine4 ? 8 : 128;
        constexpr bool kPrefetch = rows > (format == Format::Affine4 ? 1 : 4);
        const int groups = w.k / kGroup;
        const int scale_bytes = w.scale_type == ScaleType::Float32 ? 4 * kBlock : 2 * kBlock;
        const int scale_step = symmetric ? scale_bytes : 2 * scale_bytes;
        const uint8_t* values = w.values + block * w.block_bytes();
        const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + block * w.block_scale_bytes();
        const ActivationGroup* inputs[rows];
        for (int r = 0; r < rows; ++r) inputs[r] = x.row(m + r);

        __m512 total[rows];
        for (int r = 0; r < rows; ++r) total[r] = _mm512_setzero_ps();
        for (int group = 0; group < groups; ++group) {
            if constexpr (kPrefetch) {
                for (int i = 0; i < kGroupBytes; i += 64) _mm_prefetch(values + kAhead + i, _MM_HINT_T0);
            }
            __m512i weights[8];
            unpack<format>(values, weights);
            const __m512 scale = load_scales(scales, w.scale_type);
            constexpr int kParts = (rows + kTogether - 1) / kTogether;
            each<kParts>([&](auto part) __attribute__((always_inline)) {
                constexpr int first = rows * decltype(part)::value / kParts;
                constexpr int count = rows * (decltype(part)::value + 1) / kParts - first;
                const int8_t* half[count];
                __m512i product[count];
                for (int r = 0; r < count; ++r) {
                    half[r] = reinterpret_cast<const int8_t*>(inputs[first + r][group].values);
                    product[r] = _mm512_setzero_si512();
                }
                // 128 times the high halves' product, then the low halves' on top of it.
                accumulate(weights, half, product);
                for (int r = 0; r < count; ++r) {
                    product[r] = _mm512_slli_epi32(product[r], 7);
                    if constexpr (symmetric) {
                        product[r] = _mm512_sub_epi32(product[r], _mm512_set1_epi32(kZeroPoint * inputs[first + r][group].sum));
                    }
                    half[r] += kGroup;
                }
                int32_t fine = 0;
                for (int r = 0; r < count; ++r) fine |= inputs[first + r][group].fine;
                if (fine) accumulate(weights, half, product);
                for (int r = 0; r < count; ++r) {
                    const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(inputs[first + r][group].scale));
                    total[first + r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product[r]), both, total[first + r]);
                }
            });
            if constexpr (!symmetric) {
                const __m512 bias = load_scales(scales + scale_bytes, w.scale_type);
                for (int r = 0; r < rows; ++r) {
                    total[r] = _mm512_fmadd_ps(bias, _mm512_set1_ps(inputs[r][group].scaled_sum), total[r]);
                }
            }
            values += kGroupBytes;
            if (((group + 1) & (w.groups_per_scale - 1)) == 0) scales += scale_step;
        }
        for (int r = 0; r < rows; ++r) put(y + (m + r) * ldy + block * kBlock, total[r], w.n - block * kBlock, write);
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
    static constexpr LinearKernels kernels{quantize_row<Avx512>, multiply_tiles<Avx512>};
    return kernels;
}

}  // namespace russet
