// The row operations, compiled per instruction set (vector_kernels.h). A gate's tail shorter than a vector goes through
// a padded copy, so that an element is computed the same way wherever it stands.

inline void rms_norm(const float* x, const float* w, float eps, int n, float* out) {
    V partial[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    int i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
        for (int j = 0; j < 4; ++j) {
            V v = load(x + i + j * kLanes);
            partial[j] = fma(v, v, partial[j]);
        }
    }
    for (; i + kLanes <= n; i += kLanes) {
        V v = load(x + i);
        partial[0] = fma(v, v, partial[0]);
    }
    float squares = sum((partial[0] + partial[1]) + (partial[2] + partial[3]));
    for (; i < n; ++i) squares += x[i] * x[i];
    float scale = 1.0f / sqrtf(squares / static_cast<float>(n) + eps);
    V scales = splat(scale);
    for (i = 0; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) * scales * load(w + i));
    for (; i < n; ++i) out[i] = x[i] * scale * w[i];
}

inline void add(float* x, const float* y, int n) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) + load(y + i));
    for (; i < n; ++i) x[i] += y[i];
}

inline V silu(V g, V up) { return g / (splat(1.0f) + exponential(splat(0.0f) - g)) * up; }

// 0.5 g (1 + tanh(z)) = g / (1 + e^(-2z)), z = sqrt(2 / pi) (g + 0.044715 g^3)
inline V gelu(V g, V up) {
    V z = g * fma(splat(0.044715f) * g, g, splat(1.0f));
    return g / (splat(1.0f) + exponential(splat(-1.5957691216f) * z)) * up;
}

template <V (*kGate)(V, V)>
inline void gate_rows(float* gate, const float* up, int n) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(gate + i, kGate(load(gate + i), load(up + i)));
    if (i == n) return;
    float g[kLanes] = {}, u[kLanes] = {};
    for (int j = i; j < n; ++j) g[j - i] = gate[j], u[j - i] = up[j];
    store(g, kGate(load(g), load(u)));
    for (int j = i; j < n; ++j) gate[j] = g[j - i];
}

inline void silu_gate(float* gate, const float* up, int n) { gate_rows<silu>(gate, up, n); }
inline void gelu_gate(float* gate, const float* up, int n) { gate_rows<gelu>(gate, up, n); }

// One loop per layout, with constant strides and nothing aliased: the compiler then makes vectors of it.
inline void rope(float* __restrict head, const float* __restrict cosines, const float* __restrict sines, int pairs,
                 bool interleaved) {
    if (interleaved) {
        for (int i = 0; i < pairs; ++i) {
            float a = head[2 * i], b = head[2 * i + 1];
            head[2 * i] = a * cosines[i] - b * sines[i];
            head[2 * i + 1] = a * sines[i] + b * cosines[i];
        }
        return;
    }
    float* __restrict partners = head + pairs;
    for (int i = 0; i < pairs; ++i) {
        float a = head[i], b = partners[i];
        head[i] = a * cosines[i] - b * sines[i];
        partners[i] = a * sines[i] + b * cosines[i];
    }
}

inline void to_half(const float* x, int n, uint16_t* out) {
    const V most = splat(65504.0f), least = splat(-65504.0f);
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store_half(out + i, smaller(larger(load(x + i), least), most));
    if (i == n) return;
    float tail[kLanes] = {};
    uint16_t halves[kLanes];
    for (int j = i; j < n; ++j) tail[j - i] = x[j];
    store_half(halves, smaller(larger(load(tail), least), most));
    for (int j = i; j < n; ++j) out[j] = halves[j - i];
}


