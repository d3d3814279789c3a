// The passes of the sampler that touch a whole row of logits, compiled per instruction set (vector_kernels.h).

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

// e^x for x <= 0 to about 1 unit in the last place; 0 below -708, where the result would leave the normal numbers.
// Plain operations on purpose: the compiler vectorises them, and every instruction set computes the same bits.
inline double decay(double x) {
    const double magic = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
    double y = x < -708.0 ? -708.0 : x;
    double shifted = y * 1.4426950408889634074 + magic;
    double n = shifted - magic;
    double r = (y - n * 0x1.62e42feep-1) - n * 1.90821492927058770002e-10;
    // Taylor to r^13: |r| <= ln(2) / 2 leaves less than 2^-57
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = (p * r) * r + r + 1.0;
    int64_t bits;
    __builtin_memcpy(&bits, &shifted, 8);
    bits = static_cast<int64_t>(static_cast<uint64_t>(bits) << 52) + 0x3ff0000000000000;
    double power;
    __builtin_memcpy(&power, &bits, 8);
    return x < -708.0 ? 0.0 : p * power;
}

// w[i] = e^((x[i] - peak) * rate), or 0 where that is below `least`; sums[b] = sum of w[256 b, 256 (b + 1)), added up
// in the same order on every instruction set: eight strided sums, then those from left to right.
inline void weigh(const float* x, float peak, double rate, double least, int n, double* w, double* sums) {
    for (int i = 0; i < n; ++i) {
        double value = decay((static_cast<double>(x[i]) - static_cast<double>(peak)) * rate);
        w[i] = value < least ? 0.0 : value;
    }
    for (int begin = 0; begin < n; begin += kSumBlock) {
        int end = n - begin < kSumBlock ? n : begin + kSumBlock, i = begin;
        double lanes[8] = {};
        for (; i + 8 <= end; i += 8)
            for (int j = 0; j < 8; ++j) lanes[j] += w[i + j];
        double total = 0.0;
        for (int j = 0; j < 8; ++j) total += lanes[j];
        for (; i < end; ++i) total += w[i];
        sums[begin / kSumBlock] = total;
    }
}
