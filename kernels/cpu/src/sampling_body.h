// The passes of the sampler that touch a whole row, compiled per instruction set (vector_kernels.h). The weights are
// integers, whose sums are exact in any order: plain loops over them leave the order to the compiler.

// maxima[b] = the largest of x[64 b, 64 (b + 1)); returns the largest of all, or NaN where any is NaN.
inline float peaks(const float* x, int n, float* maxima) {
    float top = -INFINITY;
    unsigned bad = 0;
    for (int begin = 0; begin < n; begin += kPeakBlock) {
        int end = n - begin < kPeakBlock ? n : begin + kPeakBlock, i = begin;
        V most = splat(-INFINITY);
        for (; i + kLanes <= end; i += kLanes) most = larger(load(x + i), most);
        float best = largest(most);
        for (; i < end; ++i) best = x[i] > best ? x[i] : best;
        for (int j = begin; j < end; ++j) bad |= x[j] != x[j];
        maxima[begin / kPeakBlock] = best;
        top = best > top ? best : top;
    }
    return bad ? NAN : top;
}

// kernels/sampling.py: weights. The products and sums are not fused, so that every instruction set rounds alike.
inline void weights(V x, V peak, V rate, int32_t* w) {
    V exponent = larger((x - peak) * rate, splat(-kWeightBits - 2));
    V whole = nearest(exponent);
    V f = exponent - whole;
    V power = splat(0.0013264727f);
    power = power * f + splat(0.009671513f);
    power = power * f + splat(0.055507336f);
    power = power * f + splat(0.24022242f);
    power = power * f + splat(0.693147f);
    power = power * f + splat(1.0f);
    store_nearest(w, power * power_of_two(whole + splat(kWeightBits)));
}

inline void weigh(const float* x, const float* maxima, float peak, float rate, int n, int32_t* w, int64_t* sums) {
    for (int begin = 0; begin < n; begin += kPeakBlock) {
        int end = n - begin < kPeakBlock ? n : begin + kPeakBlock, i = begin;
        // At or below this exponent a weight is 0.
        if ((maxima[begin / kPeakBlock] - peak) * rate <= -kWeightBits - 2) {
            memset(w + begin, 0, sizeof(int32_t) * (end - begin));
            continue;
        }
        for (; i + kLanes <= end; i += kLanes) weights(load(x + i), splat(peak), splat(rate), w + i);
        if (i < end) {
            float rest[kLanes];
            int32_t weight[kLanes];
            for (int j = 0; j < kLanes; ++j) rest[j] = i + j < end ? x[i + j] : peak;
            weights(load(rest), splat(peak), splat(rate), weight);
            for (int j = 0; i + j < end; ++j) w[i + j] = weight[j];
        }
    }
    for (int begin = 0; begin < n; begin += kSumBlock) {
        int end = n - begin < kSumBlock ? n : begin + kSumBlock;
        int64_t sum = 0;
        for (int i = begin; i < end; ++i) sum += w[i];
        sums[begin / kSumBlock] = sum;
    }
}

inline int64_t sum_from(const int32_t* w, int n, int32_t least) {
    int64_t sum = 0;
    for (int i = 0; i < n; ++i) sum += w[i] >= least ? w[i] : 0;
    return sum;
}

#if RUSSET_LANES == 8
// Per mask of 8 lanes, the lanes whose bit is 1, in order: half a byte each.
struct Compressions {
    uint32_t lanes[256];
    constexpr Compressions() : lanes() {
        for (int mask = 0; mask < 256; ++mask)
            for (int lane = 0, kept = 0; lane < 8; ++lane)
                if (mask >> lane & 1) lanes[mask] |= static_cast<uint32_t>(lane) << (4 * kept++);
    }
};
constexpr Compressions kCompressions;
#endif

inline int64_t split(const int32_t* w, int n, int32_t low, int32_t high, int32_t first, FoundWeights& found) {
    int64_t sum = 0;
    int kept = found.count, i = 0;
#if RUSSET_LANES == 16
    const __m512i lows = _mm512_set1_epi32(low), highs = _mm512_set1_epi32(high), step = _mm512_set1_epi32(16);
    __m512i id = _mm512_add_epi32(_mm512_set1_epi32(first),
                                  _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    __m512i total = _mm512_setzero_si512();
    for (; i + 16 <= n; i += 16, id = _mm512_add_epi32(id, step)) {
        const __m512i weight = _mm512_loadu_si512(w + i);
        const __mmask16 above = _mm512_cmpge_epi32_mask(weight, highs);
        const __mmask16 chosen = _mm512_cmpge_epi32_mask(weight, lows) & ~above;
        _mm512_storeu_si512(found.ids + kept, _mm512_maskz_compress_epi32(chosen, id));
        _mm512_storeu_si512(found.weights + kept, _mm512_maskz_compress_epi32(chosen, weight));
        kept += __builtin_popcount(chosen);
        if (above != 0) {
            const __m512i rest = _mm512_maskz_mov_epi32(above, weight);
            total = _mm512_add_epi64(total, _mm512_cvtepu32_epi64(_mm512_castsi512_si256(rest)));
            total = _mm512_add_epi64(total, _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(rest, 1)));
        }
    }
    sum = _mm512_reduce_add_epi64(total);
#elif RUSSET_LANES == 8
    const __m256i lows = _mm256_set1_epi32(low), highs = _mm256_set1_epi32(high), step = _mm256_set1_epi32(8);
    const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    __m256i id = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i total = _mm256_setzero_si256();
    for (; i + 8 <= n; i += 8, id = _mm256_add_epi32(id, step)) {
        const __m256i weight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + i));
        const __m256i under = _mm256_cmpgt_epi32(highs, weight);
        const __m256i chosen = _mm256_andnot_si256(_mm256_cmpgt_epi32(lows, weight), under);
        const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(chosen));
        // A permutation looks at the low three bits of each lane alone.
        const __m256i lanes = _mm256_srlv_epi32(_mm256_set1_epi32(kCompressions.lanes[mask]), shifts);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(found.ids + kept), _mm256_permutevar8x32_epi32(id, lanes));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(found.weights + kept),
                            _mm256_permutevar8x32_epi32(weight, lanes));
        kept += __builtin_popcount(mask);
        const __m256i rest = _mm256_andnot_si256(under, weight);
        total = _mm256_add_epi64(total, _mm256_cvtepu32_epi64(_mm256_castsi256_si128(rest)));
        total = _mm256_add_epi64(total, _mm256_cvtepu32_epi64(_mm256_extracti128_si256(rest, 1)));
    }
    int64_t parts[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts), total);
    sum = parts[0] + parts[1] + parts[2] + parts[3];
#endif
    for (; i < n; ++i) {
        found.ids[kept] = first + i;
        found.weights[kept] = w[i];
        kept += w[i] >= low && w[i] < high;
        sum += w[i] >= high ? w[i] : 0;
    }
    found.count = kept;
    return sum;
}

inline void mask(const float* x, const uint32_t* words, int n, float* out) {
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        uint32_t word = words[i / 32];
        for (int j = 0; j < 32; ++j) out[i + j] = word >> j & 1 ? x[i + j] : -INFINITY;
    }
    for (; i < n; ++i) out[i] = words[i / 32] >> (i % 32) & 1 ? x[i] : -INFINITY;
}
