#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "pool.h"
#include "rows.h"

namespace russet {

namespace {

constexpr int kMostOfAnything = 1 << 24;  // keeps every product of two dimensions far inside 64 bits
constexpr int kAttentionChunks = 8;       // per thread: texts differ in length

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

std::string text(int64_t value) { return std::to_string(value); }

int padded(int count) { return (count + kBlock - 1) / kBlock * kBlock; }

void check_vector(const std::string& name, const std::vector<float>& values, size_t n) {
    if (values.size() != n) reject(name + " has " + text(values.size()) + " values; the spec wants " + text(n));
}

void check_norm(const std::string& name, const Norm& norm, int n) {
    check_vector(name, norm.weight, n);
    check_vector(name + " bias", norm.bias, n);
}

void check_affine(const std::string& name, const Affine& affine, int n, int k) {
    if (!affine.weight) reject(name + " is missing");
    const PackedMatrix& w = *affine.weight;
    if (w.quantized()) reject(name + " is quantized; accepted: dense weights");
    if (w.n() != n || w.k() != k) {
        reject(name + " has shape [" + text(w.n()) + ", " + text(w.k()) + "]; the spec wants [" + text(n) + ", " +
               text(k) + "]");
    }
    check_vector(name + " bias", affine.bias, n);
}

struct Scratch {
    std::vector<float> keys, values, scores;
};

void grow(std::vector<float>& buffer, size_t size) {
    if (buffer.size() < size) buffer.resize(size);
}

}  // namespace

Encoder::Encoder(EncoderShape shape, const float* words, std::vector<float> positions, Norm norm,
                 std::vector<EncoderLayerPack> layers)
    : shape_(shape), positions_(std::move(positions)), norm_(std::move(norm)), layers_(std::move(layers)) {
    const EncoderShape& s = shape_;
    for (auto [name, value] : {std::pair{"layers", s.layers},
                               {"hidden", s.hidden},
                               {"heads", s.heads},
                               {"intermediate", s.intermediate},
                               {"vocab", s.vocab},
                               {"positions", s.positions}}) {
        if (value < 1 || value > kMostOfAnything) {
            reject(std::string(name) + " is " + text(value) + "; it must lie in 1.." + text(kMostOfAnything));
        }
    }
    if (s.hidden % s.heads != 0) {
        reject("hidden (" + text(s.hidden) + ") must be a multiple of heads (" + text(s.heads) + ")");
    }
    if (static_cast<int>(layers_.size()) != s.layers) {
        reject("there are weights for " + text(layers_.size()) + " layers; the spec wants " + text(s.layers));
    }
    check_vector("positions", positions_, static_cast<size_t>(s.positions) * s.hidden);
    check_norm("norm", norm_, s.hidden);
    for (int i = 0; i < s.layers; ++i) {
        const EncoderLayerPack& l = layers_[i];
        const std::string at = "layer " + text(i) + ": ";
        check_affine(at + "qkv", l.qkv, 3 * s.hidden, s.hidden);
        check_affine(at + "output", l.output, s.hidden, s.hidden);
        check_affine(at + "up", l.up, s.intermediate, s.hidden);
        check_affine(at + "down", l.down, s.hidden, s.intermediate);
        check_norm(at + "attention_norm", l.attention_norm, s.hidden);
        check_norm(at + "mlp_norm", l.mlp_norm, s.hidden);
    }
    const size_t bytes = static_cast<size_t>(s.vocab) * s.hidden * sizeof(float);
    words_ = AlignedBytes(bytes);
    std::memcpy(words_.data(), words, bytes);
}

size_t Encoder::weight_bytes() const {
    size_t bytes = words_.size() + positions_.size() * sizeof(float);
    for (const EncoderLayerPack& l : layers_) {
        for (const Affine* a : {&l.qkv, &l.output, &l.up, &l.down}) bytes += a->weight->nbytes();
    }
    return bytes;
}

void Encoder::check(std::span<const int32_t> tokens, std::span<const int32_t> lengths) const {
    size_t total = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
        if (lengths[i] < 1 || lengths[i] > shape_.positions) {
            reject("text " + text(i) + " has " + text(lengths[i]) + " tokens; accepted: 1 to " +
                   text(shape_.positions));
        }
        total += lengths[i];
    }
    if (total != tokens.size()) {
        reject("there are " + text(tokens.size()) + " tokens; the texts' lengths add up to " + text(total));
    }
    if (total > kMostOfAnything) reject("there are " + text(total) + " tokens; accepted: " + text(kMostOfAnything));
    for (int32_t id : tokens) {
        if (id < 0 || id >= shape_.vocab) {
            reject("there is an id " + text(id) + "; accepted: 0 to " + text(shape_.vocab - 1));
        }
    }
}

void Encoder::place(std::span<const int32_t> lengths) {
    texts_.clear();
    tokens_ = 0;
    for (int32_t length : lengths) {
        texts_.push_back({tokens_, length});
        tokens_ += length;
    }
    const size_t tokens = tokens_;
    grow(x_, tokens * shape_.hidden);
    grow(qkv_, tokens * 3 * shape_.hidden);
    grow(attended_, tokens * shape_.hidden);
    grow(inner_, tokens * shape_.intermediate);
}

int Encoder::text_floats() const {
    const int64_t mean = static_cast<int64_t>(tokens_) * shape_.hidden / static_cast<int64_t>(texts_.size());
    return static_cast<int>(std::min<int64_t>(mean, kChunkFloats));
}

void Encoder::embed(std::span<const int32_t> tokens) {
    const int hidden = shape_.hidden;
    const float* words = reinterpret_cast<const float*>(words_.data());
    for_rows(*pool_, static_cast<int>(texts_.size()), text_floats(),
             [&](int begin, int end) {
                 for (int i = begin; i < end; ++i) {
                     for (int t = 0; t < texts_[i].tokens; ++t) {
                         const size_t at = texts_[i].first + t;
                         vector_kernels().layer_norm(words + static_cast<size_t>(tokens[at]) * hidden,
                                                     positions_.data() + static_cast<size_t>(t) * hidden,
                                                     norm_.weight.data(), norm_.bias.data(), shape_.norm_eps, hidden,
                                                     x_.data() + at * hidden);
                     }
                 }
             });
}

template <typename After>
void Encoder::multiply(const PackedMatrix& matrix, const float* x, float* y, Write write, After after) {
    const Tiling tiling = tile(matrix, tokens_, pool_->threads());
    pool_->run(tiling.chunks(), [&](int chunk) {
        const Tiling::Tile t = tiling.at(chunk);
        dense_chunk(matrix, x, t.m0, t.m1, t.n0, t.n1, y, matrix.n(), write);
        for (int m = t.m0; m < t.m1; ++m) after(y + static_cast<size_t>(m) * matrix.n() + t.n0, t.n0, t.n1 - t.n0);
    });
}

void Encoder::attend() {
    const int heads = shape_.heads, hidden = shape_.hidden, dim = hidden / heads;
    const int items = static_cast<int>(texts_.size()) * heads;
    const int chunks = std::min(items, pool_->threads() > 1 ? kAttentionChunks * pool_->threads() : 1);
    pool_->run(chunks, [&](int chunk) {
        static thread_local Scratch scratch;
        const int64_t all = items;
        for (int item = static_cast<int>(all * chunk / chunks); item < all * (chunk + 1) / chunks; ++item) {
            const Text& text = texts_[item / heads];
            const int head = item % heads, keys = padded(text.tokens), wide = padded(dim);
            grow(scratch.keys, static_cast<size_t>(dim) * keys);
            grow(scratch.values, static_cast<size_t>(text.tokens) * wide);
            grow(scratch.scores, static_cast<size_t>(kTextQueries) * keys);
            const float* q = qkv_.data() + static_cast<size_t>(text.first) * 3 * hidden + head * dim;
            float* out = attended_.data() + static_cast<size_t>(text.first) * hidden + head * dim;
            vector_kernels().attend_text({.q = q,
                                          .k = q + hidden,
                                          .v = q + 2 * hidden,
                                          .stride = 3 * hidden,
                                          .tokens = text.tokens,
                                          .dim = dim,
                                          .scale = 1.0f / std::sqrt(static_cast<float>(dim)),
                                          .keys = scratch.keys.data(),
                                          .padded = keys,
                                          .values = scratch.values.data(),
                                          .wide = wide,
                                          .scores = scratch.scores.data(),
                                          .out = out,
                                          .out_stride = hidden});
        }
    });
}

void Encoder::normalise(const std::vector<float>& bias, const Norm& norm) {
    const int hidden = shape_.hidden;
    for_rows(*pool_, tokens_, hidden, [&](int begin, int end) {
        for (int t = begin; t < end; ++t) {
            float* row = x_.data() + static_cast<size_t>(t) * hidden;
            vector_kernels().layer_norm(row, bias.data(), norm.weight.data(), norm.bias.data(), shape_.norm_eps, hidden,
                                        row);
        }
    });
}

void Encoder::layer(const EncoderLayerPack& w) {
    const VectorKernels& kernels = vector_kernels();
    const auto nothing = [](float*, int, int) {};
    multiply(*w.qkv.weight, x_.data(), qkv_.data(), Write::Store,
             [&](float* y, int first, int count) { kernels.add(y, w.qkv.bias.data() + first, count); });
    attend();
    multiply(*w.output.weight, attended_.data(), x_.data(), Write::Add, nothing);
    normalise(w.output.bias, w.attention_norm);
    multiply(*w.up.weight, x_.data(), inner_.data(), Write::Store,
             [&](float* y, int first, int count) { kernels.bias_gelu(y, w.up.bias.data() + first, count); });
    multiply(*w.down.weight, inner_.data(), x_.data(), Write::Add, nothing);
    normalise(w.down.bias, w.mlp_norm);
}

void Encoder::pool_texts(float* out) {
    const int hidden = shape_.hidden;
    for_rows(*pool_, static_cast<int>(texts_.size()), text_floats(),
             [&](int begin, int end) {
                 for (int i = begin; i < end; ++i) {
                     float* vector = out + static_cast<size_t>(i) * hidden;
                     std::fill_n(vector, hidden, 0.0f);
                     for (int t = 0; t < texts_[i].tokens; ++t) {
                         const size_t at = texts_[i].first + t;
                         vector_kernels().add(vector, x_.data() + at * hidden, hidden);
                     }
                     // The length of the sum is that of the mean, but for a factor that the unit vector does not know.
                     double squares = 0.0;
                     for (int d = 0; d < hidden; ++d) squares += static_cast<double>(vector[d]) * vector[d];
                     const float scale = static_cast<float>(1.0 / std::sqrt(squares));
                     for (int d = 0; d < hidden; ++d) vector[d] *= scale;
                 }
             });
}

void Encoder::forward(std::span<const int32_t> tokens, std::span<const int32_t> lengths, float* out) {
    check(tokens, lengths);
    if (lengths.empty()) return;
    std::lock_guard turn(mutex_);
    pool_ = &pool();
    place(lengths);
    embed(tokens);
    for (const EncoderLayerPack& weights : layers_) layer(weights);
    pool_texts(out);
}

}  // namespace russet
