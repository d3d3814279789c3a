// Tokens of one kv head into codes of 8, 4 or 2 bits and out again, compiled per instruction set (vector_kernels.h).
// Everything is rounded operation by operation, so that every instruction set packs the same bytes.

constexpr int kLineWords = 16;  // of 32 bits
constexpr int kGroupVectors = 16;

// What code = (x - zero) * inverse undoes, for 16 channels or tokens.
struct Affine {
    float zeros[kGroupVectors], inverses[kGroupVectors];
};

// From the least and largest values of 16 channels or tokens. The scale is the rounded one that unpacking will use.
template <int kBits>
inline Affine choose_scales(const float* least, const float* most, uint16_t* scales, uint16_t* zeros) {
    Affine affine;
    const V levels = splat(static_cast<float>((1 << kBits) - 1));
    for (int i = 0; i < kGroupVectors; i += kLanes) {
        store_half(zeros + i, load(least + i));
        const V zero = load_half(zeros + i);
        store_half(scales + i, (load(most + i) - zero) / levels);
        store(affine.zeros + i, zero);
        store(affine.inverses + i, splat(1.0f) / larger(load_half(scales + i), splat(1e-9f)));  // where all are equal
    }
    return affine;
}

// Packs 16 vectors of 16 halves; vector v lies at from + v * stride.
template <int kBits>
inline void pack_group(const uint16_t* from, int stride, const Affine& affine, uint32_t* lines) {
    constexpr int kPerLine = 32 / kBits;
    const V most = splat(static_cast<float>((1 << kBits) - 1));
    for (int v = 0; v < kGroupVectors; v += kPerLine, lines += kLineWords) {
        for (int word = 0; word < kLineWords; word += kLanes) {
            Line line = no_codes();
            for (int i = v + kPerLine - 1; i >= v; --i) {
                const V x = load_half(from + i * stride + word);
                const V code = (x - splat(affine.zeros[i])) * splat(affine.inverses[i]);
                line = push_codes<kBits>(line, smaller(larger(code, splat(0.0f)), most));
            }
            store_line(lines + word, line);
        }
    }
}

template <int kBits>
inline void unpack_group(const uint32_t* lines, const float* scales, const float* zeros, uint16_t* to, int stride) {
    constexpr int kPerLine = 32 / kBits;
    for (int v = 0; v < kGroupVectors; v += kPerLine, lines += kLineWords) {
        for (int word = 0; word < kLineWords; word += kLanes) {
            Line line = load_line(lines + word);
            for (int i = v; i < v + kPerLine; ++i, line = next_codes<kBits>(line)) {
                const V x = low_codes<kBits>(line) * splat(scales[i]) + splat(zeros[i]);
                store_half(to + i * stride + word, smaller(larger(x, splat(-65504.0f)), splat(65504.0f)));
            }
        }
    }
}

inline float smallest(V v) { return -largest(splat(0.0f) - v); }

template <int kBits>
inline void pack_keys(const HalfTokens& from, int dim, const PackedTokens& to) {
    for (int d = 0; d < dim; d += kGroupVectors) {
        float least[kGroupVectors], most[kGroupVectors];
        for (int i = 0; i < kGroupVectors; ++i) {
            V low = splat(INFINITY), high = splat(-INFINITY);
            for (int quarter = 0; quarter < kQuarters; ++quarter) {
                for (int token = 0; token < 16; token += kLanes) {
                    const V x = load_half(from.keys[quarter] + (d + i) * 16 + token);
                    low = smaller(low, x), high = larger(high, x);
                }
            }
            least[i] = smallest(low), most[i] = largest(high);
        }
        const Affine affine = choose_scales<kBits>(least, most, to.key_scales + d, to.key_scales + dim + d);
        for (int quarter = 0; quarter < kQuarters; ++quarter) {
            pack_group<kBits>(from.keys[quarter] + d * 16, 16, affine, to.keys[quarter] + d * kBits / 32 * kLineWords);
        }
    }
}

template <int kBits>
inline void pack_values(const HalfTokens& from, int head_dim, int dim, const PackedTokens& to) {
    for (int quarter = 0; quarter < kQuarters; ++quarter) {
        const uint16_t* values = from.values[quarter];
        float least[kGroupVectors], most[kGroupVectors];
        for (int token = 0; token < 16; ++token) {
            const uint16_t* x = values + token * dim;
            V low = splat(INFINITY), high = splat(-INFINITY);
            int d = 0;
            for (; d + kLanes <= head_dim; d += kLanes) {
                low = smaller(low, load_half(x + d)), high = larger(high, load_half(x + d));
            }
            if (d < head_dim) {  // the padding must not widen the range: the last value stands in for it
                uint16_t tail[kLanes];
                for (int i = 0; i < kLanes; ++i) tail[i] = x[d + i < head_dim ? d + i : head_dim - 1];
                low = smaller(low, load_half(tail)), high = larger(high, load_half(tail));
            }
            least[token] = smallest(low), most[token] = largest(high);
        }
        uint16_t* scales = to.value_scales[quarter];
        const Affine affine = choose_scales<kBits>(least, most, scales, scales + 16);
        for (int d = 0; d < dim; d += 16) {
            pack_group<kBits>(values + d, dim, affine, to.values[quarter] + d * kBits / 32 * kLineWords);
        }
    }
}

template <int kBits>
inline void unpack_quarter(const PackedTokens& from, int quarter, int head_dim, int dim, uint16_t* keys,
                           uint16_t* values) {
    float scales[kGroupVectors], zeros[kGroupVectors];
    auto load_scales = [&](const uint16_t* from_scales, const uint16_t* from_zeros) {
        for (int i = 0; i < kGroupVectors; i += kLanes) {
            store(scales + i, load_half(from_scales + i)), store(zeros + i, load_half(from_zeros + i));
        }
    };
    for (int d = 0; d < dim; d += 16) {
        load_scales(from.key_scales + d, from.key_scales + dim + d);
        unpack_group<kBits>(from.keys[quarter] + d * kBits / 32 * kLineWords, scales, zeros, keys + d * 16, 16);
    }
    load_scales(from.value_scales[quarter], from.value_scales[quarter] + 16);
    for (int d = 0; d < dim; d += 16) {
        unpack_group<kBits>(from.values[quarter] + d * kBits / 32 * kLineWords, scales, zeros, values + d, dim);
    }
    for (int token = 0; token < 16; ++token) {
        for (int d = head_dim; d < dim; ++d) values[token * dim + d] = 0;
    }
}

template <int kBits>
inline void pack_block(const HalfTokens& from, int head_dim, int dim, const PackedTokens& to) {
    pack_keys<kBits>(from, dim, to);
    pack_values<kBits>(from, head_dim, dim, to);
}

inline void pack_tokens(const HalfTokens& from, int head_dim, int dim, int bits, const PackedTokens& to) {
    switch (bits) {
        case 8: return pack_block<8>(from, head_dim, dim, to);
        case 4: return pack_block<4>(from, head_dim, dim, to);
        default: return pack_block<2>(from, head_dim, dim, to);
    }
}

inline void unpack_tokens(const PackedTokens& from, int quarter, int head_dim, int dim, int bits, uint16_t* keys,
                          uint16_t* values) {
    switch (bits) {
        case 8: return unpack_quarter<8>(from, quarter, head_dim, dim, keys, values);
        case 4: return unpack_quarter<4>(from, quarter, head_dim, dim, keys, values);
        default: return unpack_quarter<2>(from, quarter, head_dim, dim, keys, values);
    }
}
