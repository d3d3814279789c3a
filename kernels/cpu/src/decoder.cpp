#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <string>

#include "pool.h"
#include "rows.h"

namespace russet {

namespace {

constexpr int kMostOfAnything = 1 << 24;  // keeps every product of two dimensions far inside 64 bits

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

std::string text(int64_t value) { return std::to_string(value); }

// Moves the rows `which`, ascending, to the front.
void keep_rows(float* rows, size_t width, std::span<const int32_t> which) {
    for (size_t i = 0; i < which.size(); ++i) {  // which[i] >= i: no row is overwritten before it is moved
        const size_t from = which[i];
        if (from != i) std::copy_n(rows + from * width, width, rows + i * width);
    }
}

void check_matrix(const std::string& name, const Matrix& matrix, int n, int k) {
    if (!matrix) reject(name + " is missing");
    if (matrix->n() != n || matrix->k() != k) {
        reject(name + " has shape [" + text(matrix->n()) + ", " + text(matrix->k()) + "]; the spec wants [" + text(n) +
               ", " + text(k) + "]");
    }
}

void check_mixture(const std::string& at, const MixturePack& pack, const DecoderShape& s) {
    const MixtureShape& m = s.mixture;
    check_matrix(at + "router", pack.router, m.experts, s.hidden);
    if (pack.shared_gate) check_matrix(at + "shared gate", pack.shared_gate, 1, s.hidden);
    if (static_cast<int>(pack.experts.size()) != (pack.pager ? 1 : m.experts)) {
        reject(at + "there are " + text(pack.experts.size()) + " experts; the spec wants " + text(m.experts));
    }
    for (const Expert& e : pack.experts) {
        check_matrix(at + "an expert's gate", e.gate, m.intermediate, s.hidden);
        check_matrix(at + "an expert's up", e.up, m.intermediate, s.hidden);
        check_matrix(at + "an expert's down", e.down, s.hidden, m.intermediate);
    }
}

void check_vector(const std::string& name, const std::vector<float>& values, int n) {
    if (static_cast<int>(values.size()) != n) {
        reject(name + " has " + text(values.size()) + " values; the spec wants " + text(n));
    }
}

}  // namespace

void rotation(std::span<const double> frequencies, int position, float* cosines, float* sines) {
    for (size_t i = 0; i < frequencies.size(); ++i) {
        const double angle = position * frequencies[i];
        cosines[i] = static_cast<float>(std::cos(angle));
        sines[i] = static_cast<float>(std::sin(angle));
    }
}

Decoder::Decoder(DecoderShape shape, Matrix embedding, std::vector<LayerPack> layers, std::vector<float> final_norm,
                 Matrix head, int max_step_tokens, Rounding rounding)
    : shape_(std::move(shape)),
      embedding_(std::move(embedding)),
      head_(std::move(head)),
      layers_(std::move(layers)),
      final_norm_(std::move(final_norm)),
      max_step_tokens_(max_step_tokens),
      rounding_(rounding),
      mixture_(shape_.mixture, shape_.hidden, shape_.gelu, rounding) {
    const DecoderShape& s = shape_;
    for (auto [name, value] : {std::pair{"layers", s.layers},
                               {"hidden", s.hidden},
                               {"heads", s.heads},
                               {"kv_heads", s.kv_heads},
                               {"head_dim", s.head_dim},
                               {"intermediate", s.intermediate},
                               {"vocab", s.vocab},
                               {"context_length", s.context_length},
                               {"max_step_tokens", max_step_tokens}}) {
        if (value < 1 || value > kMostOfAnything) {
            reject(std::string(name) + " is " + text(value) + "; it must lie in 1.." + text(kMostOfAnything));
        }
    }
    if (s.heads % s.kv_heads != 0) {
        reject("heads (" + text(s.heads) + ") must be a multiple of kv_heads (" + text(s.kv_heads) + ")");
    }
    if (2 * s.frequencies.size() > static_cast<size_t>(s.head_dim)) {
        reject("rope has " + text(s.frequencies.size()) + " frequencies; head_dim " + text(s.head_dim) +
               " has room for " + text(s.head_dim / 2));
    }
    if (static_cast<int>(layers_.size()) != s.layers) {
        reject("there are weights for " + text(layers_.size()) + " layers; the spec wants " + text(s.layers));
    }
    const int q_width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
    check_matrix("embedding", embedding_, s.vocab, s.hidden);
    check_matrix("head", head_, s.vocab, s.hidden);
    check_vector("final_norm", final_norm_, s.hidden);
    for (int i = 0; i < s.layers; ++i) {
        const LayerPack& l = layers_[i];
        const std::string at = "layer " + text(i) + ": ";
        check_vector(at + "attention_norm", l.attention_norm, s.hidden);
        check_vector(at + "mlp_norm", l.mlp_norm, s.hidden);
        check_matrix(at + "q", l.q, q_width, s.hidden);
        check_matrix(at + "k", l.k, kv_width, s.hidden);
        check_matrix(at + "v", l.v, kv_width, s.hidden);
        check_matrix(at + "o", l.o, s.hidden, q_width);
        if (l.mixture) check_mixture(at, *l.mixture, s);
        if (!l.mixture || l.mixture->shared_gate) {
            const int width = l.mixture ? s.mixture.shared_intermediate : s.intermediate;
            check_matrix(at + "gate", l.gate, width, s.hidden);
            check_matrix(at + "up", l.up, width, s.hidden);
            check_matrix(at + "down", l.down, s.hidden, width);
        } else if (l.gate || l.up || l.down) {
            reject(at + "a shared expert wants a shared gate");
        }
        if (!l.q_norm.empty() || !l.k_norm.empty()) {
            check_vector(at + "q_norm", l.q_norm, s.head_dim);
            check_vector(at + "k_norm", l.k_norm, s.head_dim);
        }
        if (l.q_bias.empty() && l.k_bias.empty() && l.v_bias.empty()) continue;
        check_vector(at + "q_bias", l.q_bias, q_width);
        check_vector(at + "k_bias", l.k_bias, kv_width);
        check_vector(at + "v_bias", l.v_bias, kv_width);
    }
}

size_t Decoder::weight_bytes() const {
    size_t bytes = embedding_->nbytes() + (head_ == embedding_ ? 0 : head_->nbytes());
    for (const LayerPack& l : layers_) {
        for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) bytes += *m ? (*m)->nbytes() : 0;
        if (l.mixture) bytes += l.mixture->nbytes();
    }
    return bytes;
}

void Decoder::validate(const DecoderBatch& b, const KvSlab& slab) const {
    const SlabShape& s = slab.shape();
    if (s.layers != shape_.layers || s.kv_heads != shape_.kv_heads || s.head_dim != shape_.head_dim) {
        reject("the KV slab is of another model: layers, kv_heads, head_dim are " + text(s.layers) + ", " +
               text(s.kv_heads) + ", " + text(s.head_dim) + " instead of " + text(shape_.layers) + ", " +
               text(shape_.kv_heads) + ", " + text(shape_.head_dim));
    }
    check_batch(b, {shape_.vocab, shape_.context_length, max_step_tokens_}, s);
}

void Decoder::place(const DecoderBatch& batch, const KvSlab& slab) {
    const SlabShape& s = slab.shape();
    tokens_ = static_cast<int>(batch.tokens.size());
    const size_t tokens = tokens_, q_width = static_cast<size_t>(shape_.heads) * shape_.head_dim;
    auto reserve = [](std::vector<float>& buffer, size_t size) {
        if (buffer.size() < size) buffer.resize(size);
    };
    reserve(x_, tokens * shape_.hidden);
    reserve(normed_, tokens * shape_.hidden);
    reserve(qkv_, tokens * (q_width + 2 * static_cast<size_t>(shape_.kv_heads) * shape_.head_dim));
    reserve(attended_, tokens * q_width);
    const size_t widest = std::max(shape_.intermediate, shape_.mixture.shared_intermediate);
    reserve(gate_, tokens * widest);
    reserve(up_, tokens * widest);
    reserve(router_logits_, tokens * shape_.mixture.experts);
    reserve(shares_, tokens);
    reserve(cosines_, tokens * shape_.frequencies.size());
    reserve(sines_, tokens * shape_.frequencies.size());
    places_.resize(tokens);
    rows_ = split_rows(batch.rows);
    for (const BatchRow& row : rows_) {
        for (int t = 0; t < row.tokens; ++t) {
            const int slot = row.length + t;
            places_[row.first_token + t] = {row.pages[slot / s.page_size], slot % s.page_size};
        }
    }
    if (attention_page_size_ != s.page_size) {
        attention_.emplace(shape_.heads, s, 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)));
        attention_page_size_ = s.page_size;
    }
    attention_->plan(rows_, pool_->threads());
}

void Decoder::embed(const DecoderBatch& batch) {
    const int hidden = shape_.hidden, pairs = static_cast<int>(shape_.frequencies.size());
    for_rows(*pool_, tokens_, hidden, [&](int begin, int end) {
        for (int t = begin; t < end; ++t) {
            dequantize_row(*embedding_, batch.tokens[t], x_.data() + static_cast<size_t>(t) * hidden);
        }
    });
    for (const BatchRow& row : rows_) {
        for (int t = 0; t < row.tokens; ++t) {
            float* cosines = cosines_.data() + static_cast<size_t>(row.first_token + t) * pairs;
            float* sines = sines_.data() + static_cast<size_t>(row.first_token + t) * pairs;
            rotation(shape_.frequencies, row.length + row.depth(t), cosines, sines);
        }
    }
}

template <typename Before>
void Decoder::prepare_rows(std::initializer_list<const PackedMatrix*> matrices, const float* x, int width,
                           Before before) {
    bool quantized = false, dense = false;
    for (const PackedMatrix* matrix : matrices) {
        if (matrix) (matrix->quantized() ? quantized : dense) = true;
    }
    if (quantized) quantized_.resize(tokens_, width, true, rounding_);
    if (dense) dense_.resize(tokens_, width, false, rounding_);
    for_rows(*pool_, tokens_, width, [&](int begin, int end) {
        for (int t = begin; t < end; ++t) before(t);
        if (quantized) prepare(quantized_, x, width, begin, end);
        if (dense) prepare(dense_, x, width, begin, end);
    });
}

void Decoder::multiply(std::initializer_list<Product> products, Write write) {
    std::array<Tiling, 3> tilings;
    std::array<int, 4> starts{};
    const int count = static_cast<int>(products.size());
    for (int i = 0; i < count; ++i) {
        tilings[i] = tile(*products.begin()[i].matrix, tokens_, pool_->threads());
        starts[i + 1] = starts[i] + tilings[i].chunks();
    }
    pool_->run(starts[count], [&](int chunk) {
        int i = 0;
        while (chunk >= starts[i + 1]) ++i;
        const Product& p = products.begin()[i];
        const Tiling::Tile t = tilings[i].at(chunk - starts[i]);
        linear_chunk(*p.matrix, p.matrix->quantized() ? quantized_ : dense_, t.m0, t.m1, t.n0, t.n1, p.y, p.ldy, write);
    });
}

void Decoder::write_kv(int index, const LayerPack& weights, KvSlab& slab) {
    const VectorKernels& kernels = vector_kernels();
    const int dim = shape_.head_dim, heads = shape_.heads, kv_heads = shape_.kv_heads;
    const int width = (heads + 2 * kv_heads) * dim, pairs = static_cast<int>(shape_.frequencies.size());
    for_rows(*pool_, tokens_, width, [&](int begin, int end) {
        for (int t = begin; t < end; ++t) {
            float* q = qkv_.data() + static_cast<size_t>(t) * width;
            float *k = q + heads * dim, *v = k + kv_heads * dim;
            if (!weights.q_bias.empty()) {
                kernels.add(q, weights.q_bias.data(), heads * dim);
                kernels.add(k, weights.k_bias.data(), kv_heads * dim);
                kernels.add(v, weights.v_bias.data(), kv_heads * dim);
            }
            const float* cosines = cosines_.data() + static_cast<size_t>(t) * pairs;
            const float* sines = sines_.data() + static_cast<size_t>(t) * pairs;
            for (int h = 0; h < heads + kv_heads; ++h) {
                if (!weights.q_norm.empty()) {
                    const float* norm = (h < heads ? weights.q_norm : weights.k_norm).data();
                    kernels.rms_norm(q + h * dim, norm, shape_.norm_eps, dim, q + h * dim);
                }
                kernels.rope(q + h * dim, cosines, sines, pairs, shape_.interleaved);
            }
            const Place place = places_[t];
            slab.write(place.page, index, place.slot, k, v);
        }
    });
}

std::span<const int32_t> Decoder::wanted(const DecoderBatch& batch) {
    if (batch.hidden_at.empty()) return batch.logits_at;
    wanted_.clear();
    std::ranges::set_union(batch.logits_at, batch.hidden_at, std::back_inserter(wanted_));
    return wanted_;
}

void Decoder::tell_hidden(const DecoderBatch& batch) {
    if (batch.hidden_at.empty()) return;
    const VectorKernels& kernels = vector_kernels();
    const size_t hidden = shape_.hidden;
    const auto row_of = [&](int32_t token) {
        return static_cast<int32_t>(std::ranges::lower_bound(wanted_, token) - wanted_.begin());
    };
    for (size_t i = 0; i < batch.hidden_at.size(); ++i) {
        kernels.rms_norm(x_.data() + row_of(batch.hidden_at[i]) * hidden, final_norm_.data(), shape_.norm_eps,
                         shape_.hidden, batch.hidden + i * hidden);
    }
    std::vector<int32_t> rows(batch.logits_at.begin(), batch.logits_at.end());
    std::ranges::transform(rows, rows.begin(), row_of);
    keep_rows(x_.data(), hidden, rows);
    tokens_ = static_cast<int>(rows.size());
}

void Decoder::layer(int index, const DecoderBatch& batch, KvSlab& slab) {
    const VectorKernels& kernels = vector_kernels();
    const LayerPack& w = layers_[index];
    const int hidden = shape_.hidden, q_width = shape_.heads * shape_.head_dim;
    const int kv_width = shape_.kv_heads * shape_.head_dim;
    const int width = q_width + 2 * kv_width;
    prepare_rows({w.q.get(), w.k.get(), w.v.get()}, normed_.data(), hidden, [&, this](int t) {
        const size_t at = static_cast<size_t>(t) * hidden;
        kernels.rms_norm(x_.data() + at, w.attention_norm.data(), shape_.norm_eps, hidden, normed_.data() + at);
    });
    multiply({{w.q.get(), qkv_.data(), width},
              {w.k.get(), qkv_.data() + q_width, width},
              {w.v.get(), qkv_.data() + q_width + kv_width, width}},
             Write::Store);
    write_kv(index, w, slab);
    const bool last = index + 1 == shape_.layers;
    const std::span<const int32_t> kept = last ? wanted(batch) : std::span<const int32_t>();
    if (last && kept.empty()) return;  // the rest of the last layer only serves logits and hidden states
    attention_->run(*pool_, slab, index, qkv_.data(), width, attended_.data(), q_width);
    if (last) {
        keep_rows(x_.data(), hidden, kept);
        keep_rows(attended_.data(), q_width, kept);
        tokens_ = static_cast<int>(kept.size());
    }
    prepare_rows({w.o.get()}, attended_.data(), q_width, [](int) {});
    multiply({{w.o.get(), x_.data(), hidden}}, Write::Add);

    feed_forward(w);
}

void Decoder::feed_forward(const LayerPack& w) {
    const int hidden = shape_.hidden;
    const VectorKernels& kernels = vector_kernels();
    auto norm = [&, this](int t) {
        const size_t at = static_cast<size_t>(t) * hidden;
        kernels.rms_norm(x_.data() + at, w.mlp_norm.data(), shape_.norm_eps, hidden, normed_.data() + at);
    };
    if (!w.mixture) {
        prepare_rows({w.gate.get(), w.up.get()}, normed_.data(), hidden, norm);
        dense_feed_forward(w, nullptr);
        return;
    }
    const MixturePack& m = *w.mixture;
    const Expert& expert = m.experts[0];  // all are of one form
    const bool shared = m.shared_gate != nullptr;
    prepare_rows({m.router.get(), expert.gate.get(), expert.up.get(), shared ? m.shared_gate.get() : nullptr,
                  w.gate.get(), w.up.get()},
                 normed_.data(), hidden, norm);
    const Product route{m.router.get(), router_logits_.data(), shape_.mixture.experts};
    if (shared) {
        multiply({route, {m.shared_gate.get(), shares_.data(), 1}}, Write::Store);
    } else {
        multiply({route}, Write::Store);
    }
    mixture_.run(*pool_, m, quantized_, dense_, router_logits_.data(), tokens_, x_.data());
    if (!shared) return;
    for (int t = 0; t < tokens_; ++t) shares_[t] = sigmoid(shares_[t]);
    dense_feed_forward(w, shares_.data());
}

void Decoder::dense_feed_forward(const LayerPack& w, const float* shares) {
    const VectorKernels& kernels = vector_kernels();
    const int width = w.gate->n();
    multiply({{w.gate.get(), gate_.data(), width}, {w.up.get(), up_.data(), width}}, Write::Store);
    auto* gate = shape_.gelu ? kernels.gelu_gate : kernels.silu_gate;
    prepare_rows({w.down.get()}, gate_.data(), width, [&](int t) {
        float* row = gate_.data() + static_cast<size_t>(t) * width;
        gate(row, up_.data() + static_cast<size_t>(t) * width, width);
        if (shares) std::transform(row, row + width, row, [share = shares[t]](float value) { return share * value; });
    });
    multiply({{w.down.get(), x_.data(), shape_.hidden}}, Write::Add);
}

void Decoder::forward(const DecoderBatch& batch, KvSlab& slab, float* logits) {
    std::lock_guard<std::mutex> turn(mutex_);
    pool_ = &pool();
    validate(batch, slab);
    place(batch, slab);
    embed(batch);
    for (int i = 0; i < shape_.layers; ++i) layer(i, batch, slab);
    tell_hidden(batch);
    if (batch.logits_at.empty()) return;
    const VectorKernels& kernels = vector_kernels();
    const int hidden = shape_.hidden;
    prepare_rows({head_.get()}, normed_.data(), hidden, [&](int t) {
        const size_t at = static_cast<size_t>(t) * hidden;
        kernels.rms_norm(x_.data() + at, final_norm_.data(), shape_.norm_eps, hidden, normed_.data() + at);
    });
    multiply({{head_.get(), logits, shape_.vocab}}, Write::Store);
}

}  // namespace russet
