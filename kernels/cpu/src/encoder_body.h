// What a sentence encoder needs beside matrix products, compiled per instruction set (vector_kernels.h). Row by row, or
// a head of one text at a time: a number depends on its own text alone. Builds on the attention body.

// Sum over i of x[i], or of (x[i] - mean)^2.
template <bool kSquares>
inline float total_of(const float* x, float mean, int n) {
    const V shift = splat(mean);
    V partial[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    int i = 0;
    for (int j = 0; i + kLanes <= n; i += kLanes, j = (j + 1) % 4) {
        const V v = load(x + i) - shift;
        partial[j] = kSquares ? fma(v, v, partial[j]) : partial[j] + v;
    }
    float total = sum((partial[0] + partial[1]) + (partial[2] + partial[3]));
    for (; i < n; ++i) total += kSquares ? (x[i] - mean) * (x[i] - mean) : x[i] - mean;
    return total;
}

inline void layer_norm(const float* x, const float* y, const float* w, const float* b, float eps, int n, float* out) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) + load(y + i));
    for (; i < n; ++i) out[i] = x[i] + y[i];
    const float mean = total_of<false>(out, 0.0f, n) / static_cast<float>(n);
    const float scale = 1.0f / sqrtf(total_of<true>(out, mean, n) / static_cast<float>(n) + eps);
    const V means = splat(mean), scales = splat(scale);
    for (i = 0; i + kLanes <= n; i += kLanes)
        store(out + i, fma((load(out + i) - means) * scales, load(w + i), load(b + i)));
    for (; i < n; ++i) out[i] = (out[i] - mean) * scale * w[i] + b[i];
}

// x times the normal distribution function of x, as max(x, 0) - |x| * tail(|x|): tail is half of Abramowitz and
// Stegun's 7.1.26 for 1 - erf(|x| / sqrt(2)), so the error is within 2e-7 * |x|.
inline V normal_gelu(V x) {
    const V zero = splat(0.0f), one = splat(1.0f), size = larger(x, zero - x);
    const V t = one / fma(size, splat(0.231641888f), one);
    V tail = splat(0.5307027145f);
    tail = fma(tail, t, splat(-0.7265760135f));
    tail = fma(tail, t, splat(0.7107068705f));
    tail = fma(tail, t, splat(-0.142248368f));
    tail = fma(tail, t, splat(0.127414796f));
    return larger(x, zero) - size * (tail * t) * exponential(splat(-0.5f) * x * x);
}

inline void bias_gelu(float* x, const float* bias, int n) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(x + i, normal_gelu(load(x + i) + load(bias + i)));
    if (i == n) return;
    float tail[kLanes] = {};
    for (int j = i; j < n; ++j) tail[j - i] = x[j] + bias[j];
    store(tail, normal_gelu(load(tail)));
    for (int j = i; j < n; ++j) x[j] = tail[j - i];
}

// So many vectors of results for each of kQueries at once: 12 registers of sums leave some even of AVX2's 16.
constexpr int kTogether = 2;

// scores[i][column ...] = q[first + i] . key for kVectors vectors of keys.
template <int kQueries, int kVectors>
inline void score_text(const TextCall& c, int first, int column) {
    V acc[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) acc[i][j] = splat(0.0f);
    const float *keys = c.keys + column, *q = c.q + first * c.stride;
    for (int d = 0; d < c.dim; ++d, keys += c.padded) {
        V k[kVectors];
        for (int j = 0; j < kVectors; ++j) k[j] = load(keys + j * kLanes);
        for (int i = 0; i < kQueries; ++i) {
            const V value = splat(q[i * c.stride + d]);
            for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(value, k[j], acc[i][j]);
        }
    }
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) store(c.scores + i * c.padded + column + j * kLanes, acc[i][j]);
}

// out[first + i][d ...] = share[i] * sum over keys, in their order, of weight[i][key] * value[key][d ...]
template <int kQueries, int kVectors>
inline void weigh_text(const TextCall& c, int first, int d, const float* shares) {
    V acc[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) acc[i][j] = splat(0.0f);
    const float* values = c.values + d;
    for (int s = 0; s < c.tokens; ++s, values += c.wide) {
        V v[kVectors];
        for (int j = 0; j < kVectors; ++j) v[j] = load(values + j * kLanes);
        for (int i = 0; i < kQueries; ++i) {
            const V p = splat(c.scores[i * c.padded + s]);
            for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(p, v[j], acc[i][j]);
        }
    }
    for (int i = 0; i < kQueries; ++i) {
        float* out = c.out + (first + i) * c.out_stride;
        for (int j = 0; j < kVectors; ++j) {
            const V mean = acc[i][j] * splat(shares[i]);
            const int at = d + j * kLanes;
            if (at + kLanes <= c.dim) {
                store(out + at, mean);
            } else if (at < c.dim) {  // the next head's numbers lie behind
                float tail[kLanes];
                store(tail, mean);
                for (int l = at; l < c.dim; ++l) out[l] = tail[l - at];
            }
        }
    }
}

template <int kQueries>
inline void text_queries(const TextCall& c, int first) {
    int column = 0;
    for (; column + kTogether * kLanes <= c.padded; column += kTogether * kLanes)
        score_text<kQueries, kTogether>(c, first, column);
    for (; column < c.padded; column += kLanes) score_text<kQueries, 1>(c, first, column);
    float shares[kQueries];
    for (int i = 0; i < kQueries; ++i) {
        float maximum, total;
        soften(c.scores + i * c.padded, c.tokens, c.padded, &maximum, &total);
        shares[i] = 1.0f / total;
    }
    int d = 0;
    for (; d + kTogether * kLanes <= c.wide; d += kTogether * kLanes)
        weigh_text<kQueries, kTogether>(c, first, d, shares);
    for (; d < c.wide; d += kLanes) weigh_text<kQueries, 1>(c, first, d, shares);
}

inline void attend_text(const TextCall& c) {
    for (int t = 0; t < c.tokens; ++t) {
        const float* k = c.k + t * c.stride;
        const float* v = c.v + t * c.stride;
        for (int d = 0; d < c.dim; ++d) c.keys[d * c.padded + t] = k[d] * c.scale;
        for (int d = 0; d < c.dim; ++d) c.values[t * c.wide + d] = v[d];
        for (int d = c.dim; d < c.wide; ++d) c.values[t * c.wide + d] = 0.0f;
    }
    for (int d = 0; d < c.dim; ++d)
        for (int t = c.tokens; t < c.padded; ++t) c.keys[d * c.padded + t] = 0.0f;
    int first = 0;
    for (; first + kTextQueries <= c.tokens; first += kTextQueries) text_queries<kTextQueries>(c, first);
    switch (c.tokens - first) {
        case 1: return text_queries<1>(c, first);
        case 2: return text_queries<2>(c, first);
        case 3: return text_queries<3>(c, first);
        case 4: return text_queries<4>(c, first);
        case 5: return text_queries<5>(c, first);
        default: return;
    }
}
