// One vector of floats per instruction set, one of packed codes, and the few operations the bodies need. Included inside a
// namespace, once for each RUSSET_LANES; no include guard on purpose. `V` takes the compiler's own + - *; every
// multiply-add whose rounding matters is an explicit `fma`, so that how a loop is blocked never changes a result.

constexpr int kLanes = RUSSET_LANES;

// Asks for a cache line, into the second level: the first is too small to be asked early.
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// A Line is kLanes words of a line of packed codes (slab.h): low_codes are those in the lowest bits of each word,
// next_codes shifts the next ones there, push_codes puts new ones (of 0 .. 2^bits - 1, to be rounded) below the others.

#if RUSSET_LANES == 16
using V = __m512;
inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, V v) { _mm512_storeu_ps(p, v); }
inline V splat(float x) { return _mm512_set1_ps(x); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V larger(V a, V b) { return _mm512_max_ps(a, b); }
inline V smaller(V a, V b) { return _mm512_min_ps(a, b); }
inline V nearest(V v) { return _mm512_roundscale_ps(v, 8); }
inline V power_of_two(V n) {
    __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
inline void store_nearest(int32_t* p, V v) { _mm512_storeu_si512(p, _mm512_cvtps_epi32(v)); }
inline float sum(V v) { return _mm512_reduce_add_ps(v); }
inline float largest(V v) { return _mm512_reduce_max_ps(v); }
inline V load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_half(uint16_t* p, V v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, 8));
}
using Line = __m512i;
inline Line load_line(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void store_line(uint32_t* p, Line line) { _mm512_storeu_si512(p, line); }
inline Line no_codes() { return _mm512_setzero_si512(); }
template <int kBits>
inline V low_codes(Line line) {
    // Up to 4 bits a table of 16 floats, of which the instruction takes the one that the 4 lowest bits say.
    if constexpr (kBits == 4) {
        return _mm512_permutexvar_ps(line, _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    } else if constexpr (kBits == 2) {
        return _mm512_permutexvar_ps(line, _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3));
    } else {
        return _mm512_cvtepi32_ps(_mm512_and_si512(line, _mm512_set1_epi32((1 << kBits) - 1)));
    }
}
template <int kBits>
inline Line next_codes(Line line) { return _mm512_srli_epi32(line, kBits); }
template <int kBits>
inline Line push_codes(Line line, V codes) {
    return _mm512_or_si512(_mm512_slli_epi32(line, kBits), _mm512_cvtps_epi32(codes));
}
#elif RUSSET_LANES == 8
using V = __m256;
inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, V v) { _mm256_storeu_ps(p, v); }
inline V splat(float x) { return _mm256_set1_ps(x); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V larger(V a, V b) { return _mm256_max_ps(a, b); }
inline V smaller(V a, V b) { return _mm256_min_ps(a, b); }
inline V nearest(V v) { return _mm256_round_ps(v, 8); }
inline V power_of_two(V n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
inline void store_nearest(int32_t* p, V v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvtps_epi32(v));
}
inline float sum(V v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
inline float largest(V v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
inline V load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store_half(uint16_t* p, V v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, 8)); }
using Line = __m256i;
inline Line load_line(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_line(uint32_t* p, Line line) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), line); }
inline Line no_codes() { return _mm256_setzero_si256(); }
template <int kBits>
inline V low_codes(Line line) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(line, _mm256_set1_epi32((1 << kBits) - 1)));
}
template <int kBits>
inline Line next_codes(Line line) { return _mm256_srli_epi32(line, kBits); }
template <int kBits>
inline Line push_codes(Line line, V codes) {
    return _mm256_or_si256(_mm256_slli_epi32(line, kBits), _mm256_cvtps_epi32(codes));
}
#elif RUSSET_LANES == 4
using V = float32x4_t;
inline V load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, V v) { vst1q_f32(p, v); }
inline V splat(float x) { return vdupq_n_f32(x); }
inline V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
inline V larger(V a, V b) { return vmaxq_f32(a, b); }
inline V smaller(V a, V b) { return vminq_f32(a, b); }
inline V nearest(V v) { return vrndnq_f32(v); }
inline V power_of_two(V n) {
    int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}
inline void store_nearest(int32_t* p, V v) { vst1q_s32(p, vcvtnq_s32_f32(v)); }
inline float sum(V v) { return vaddvq_f32(v); }
inline float largest(V v) { return vmaxvq_f32(v); }
inline V load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline void store_half(uint16_t* p, V v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
using Line = uint32x4_t;
inline Line load_line(const uint32_t* p) { return vld1q_u32(p); }
inline void store_line(uint32_t* p, Line line) { vst1q_u32(p, line); }
inline Line no_codes() { return vdupq_n_u32(0); }
template <int kBits>
inline V low_codes(Line line) { return vcvtq_f32_u32(vandq_u32(line, vdupq_n_u32((1u << kBits) - 1))); }
template <int kBits>
inline Line next_codes(Line line) { return vshrq_n_u32(line, kBits); }
template <int kBits>
inline Line push_codes(Line line, V codes) { return vorrq_u32(vshlq_n_u32(line, kBits), vcvtnq_u32_f32(codes)); }
#else
using V = float;
inline V load(const float* p) { return *p; }
inline void store(float* p, V v) { *p = v; }
inline V splat(float x) { return x; }
inline V fma(V a, V b, V c) { return a * b + c; }
inline V larger(V a, V b) { return a > b ? a : b; }
inline V smaller(V a, V b) { return a < b ? a : b; }
inline V nearest(V v) { return nearbyintf(v); }
inline V power_of_two(V n) { return ldexpf(1.0f, static_cast<int>(n)); }
inline void store_nearest(int32_t* p, V v) { *p = static_cast<int32_t>(nearbyintf(v)); }
inline float sum(V v) { return v; }
inline float largest(V v) { return v; }
inline V load_half(const uint16_t* p) {
    // The exponent is moved into place and then rescaled by 2^112, which makes half's subnormals come out right.
    uint32_t sign = static_cast<uint32_t>(*p & 0x8000u) << 16;
    uint32_t magnitude = static_cast<uint32_t>(*p & 0x7fffu) << 13;
    float value;
    memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    if ((*p & 0x7c00u) == 0x7c00u) {  // infinity and NaN keep all exponent bits
        magnitude |= 0x7f800000u;
        memcpy(&value, &magnitude, 4);
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}
inline void store_half(uint16_t* p, V v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        *p = sign | 0x7e00u;
    } else if (magnitude >= 0x477ff000u) {  // rounds past 65504
        *p = sign | 0x7c00u;
    } else if (magnitude < 0x38800000u) {  // subnormal half: let float addition round at the right place
        float value;
        memcpy(&value, &magnitude, 4);
        value += 0.5f;
        uint32_t rounded;
        memcpy(&rounded, &value, 4);
        *p = sign | static_cast<uint16_t>(rounded - 0x3f000000u);
    } else {
        uint32_t odd = (magnitude >> 13) & 1u;
        *p = sign | static_cast<uint16_t>((magnitude - 0x38000000u + 0xfffu + odd) >> 13);
    }
}
using Line = uint32_t;
inline Line load_line(const uint32_t* p) { return *p; }
inline void store_line(uint32_t* p, Line line) { *p = line; }
inline Line no_codes() { return 0; }
template <int kBits>
inline V low_codes(Line line) { return static_cast<float>(line & ((1u << kBits) - 1)); }
template <int kBits>
inline Line next_codes(Line line) { return line >> kBits; }
template <int kBits>
inline Line push_codes(Line line, V codes) { return line << kBits | static_cast<uint32_t>(nearbyintf(codes)); }
#endif

// e^x to about 1 unit in the last place (Cephes expf); x is clamped to the range of normal floats.
inline V exponential(V x) {
    x = smaller(larger(x, splat(-87.33654f)), splat(88.37626f));
    V n = nearest(x * splat(1.44269504f));
    V r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    V p = fma(splat(1.9875691500e-4f), r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r + splat(1.0f));
    return p * power_of_two(n);
}
