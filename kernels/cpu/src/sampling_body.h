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

inline int select(const int32_t* w, int n, int32_t least, int32_t first, int32_t* ids) {
    int count = 0, i = 0;
#if RUSSET_LANES == 16
    __m512i id = _mm512_add_epi32(_mm512_set1_epi32(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                                                              13, 14, 15));
    for (; i + 16 <= n; i += 16, id = _mm512_add_epi32(id, _mm512_set1_epi32(16))) {
        __mmask16 chosen = _mm512_cmpge_epi32_mask(_mm512_loadu_si512(w + i), _mm512_set1_epi32(least));
        _mm512_storeu_si512(ids + count, _mm512_maskz_compress_epi32(chosen, id));
        count += __builtin_popcount(chosen);
    }
#endif
    for (; i < n; ++i) {
        ids[count] = first + i;
        count += w[i] >= least;
    }
    return count;
}

inline void mask(const float* x, const uint32_t* words, int n, float* out) {
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        uint32_t word = words[i / 32];
        for (int j = 0; j < 32; ++j) out[i + j] = word >> j & 1 ? x[i + j] : -INFINITY;
    }
    for (; i < n; ++i) out[i] = words[i / 32] >> (i % 32) & 1 ? x[i] : -INFINITY;
}
