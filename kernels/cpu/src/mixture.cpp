#include "mixture.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "pool.h"
#include "rows.h"
#include "vector_kernels.h"

namespace russet {

namespace {

// Rows of one chunk: their activations stay in the second-level cache while the weights pass by.
constexpr int kChunkRows = 256;
// Enough chunks in a phase that one thread's bad luck is shared.
constexpr int kChunksPerThread = 8;

template <typename T>
void reserve(std::vector<T>& buffer, size_t size) {
    if (buffer.size() < size) buffer.resize(size);
}

}  // namespace

size_t MixturePack::nbytes() const {
    size_t bytes = router->nbytes() + (shared_gate ? shared_gate->nbytes() : 0);
    for (const Expert& expert : experts) bytes += expert.nbytes();
    return bytes;
}

Mixture::Mixture(MixtureShape shape, int hidden, bool gelu, Rounding rounding)
    : shape_(shape), hidden_(hidden), gelu_(gelu), rounding_(rounding) {
    if (shape.experts == 0) return;
    const int most = std::min(shape.experts, kMostChosen);
    if (shape.top_k < 1 || shape.top_k > most) {
        throw std::invalid_argument("top_k is " + std::to_string(shape.top_k) + "; accepted: 1 to " +
                                    std::to_string(most));
    }
}

void Mixture::choose(Pool& pool, const float* logits, int rows) {
    const Routing routing{shape_.top_k, shape_.normalize};
    const size_t experts = shape_.experts, top_k = shape_.top_k;
    ids_.resize(rows * top_k);
    weights_.resize(rows * top_k);
    constexpr int kFloatsPerLogit = 8;  // an exponential costs as much as so many floats of other phases
    for_rows(pool, rows, shape_.experts * kFloatsPerLogit, [&](int begin, int end) {
        for (size_t row = begin; row < static_cast<size_t>(end); ++row) {
            choose_experts({logits + row * experts, experts}, {}, routing, ids_.data() + row * top_k,
                           weights_.data() + row * top_k);
        }
    });
}

void Mixture::group() {
    starts_.assign(shape_.experts + 1, 0);
    for (int32_t id : ids_) ++starts_[id + 1];
    for (int expert = 0; expert < shape_.experts; ++expert) starts_[expert + 1] += starts_[expert];
    pairs_.resize(ids_.size());
    places_.resize(ids_.size());
    std::vector<int32_t> next(starts_.begin(), starts_.end() - 1);
    for (size_t pair = 0; pair < ids_.size(); ++pair) {
        const int32_t place = next[ids_[pair]]++;
        pairs_[place] = static_cast<int32_t>(pair);
        places_[pair] = place;
    }
}

void Mixture::add_chunks(const PackedMatrix& matrix, int m0, int m1, int threads, float* y) {
    const int total = static_cast<int>(pairs_.size());
    // An expert's part of the phase's chunks, by its part of the rows.
    const int wanted = std::max(1, kChunksPerThread * threads * (m1 - m0) / std::max(1, total));
    const int blocks = std::max(1, (matrix.blocks() + wanted - 1) / wanted);
    for (int m = m0; m < m1; m += kChunkRows) {
        for (int n = 0; n < matrix.n(); n += blocks * kBlock) {
            chunks_.push_back({&matrix, m, std::min(m1, m + kChunkRows), n, std::min(matrix.n(), n + blocks * kBlock), y});
        }
    }
}

void Mixture::multiply(Pool& pool) {
    pool.run(static_cast<int>(chunks_.size()), [&](int index) {
        const Chunk& c = chunks_[index];
        linear_chunk(*c.matrix, c.matrix->quantized() ? quantized_ : dense_, c.m0, c.m1, c.n0, c.n1, c.y, c.matrix->n());
    });
    chunks_.clear();
}

void Mixture::resize(std::initializer_list<const PackedMatrix*> matrices, int width) {
    any_quantized_ = any_dense_ = false;
    for (const PackedMatrix* matrix : matrices) (matrix->quantized() ? any_quantized_ : any_dense_) = true;
    const int pairs = static_cast<int>(pairs_.size());
    if (any_quantized_) quantized_.resize(pairs, width, true, rounding_);
    if (any_dense_) dense_.resize(pairs, width, false, rounding_);
}

void Mixture::run(Pool& pool, const MixturePack& pack, const Activations& quantized, const Activations& dense,
                  const float* logits, int rows, float* x) {
    choose(pool, logits, rows);
    group();
    const int pairs = static_cast<int>(pairs_.size()), width = shape_.intermediate, top_k = shape_.top_k;
    reserve(gate_, static_cast<size_t>(pairs) * width);
    reserve(up_, static_cast<size_t>(pairs) * width);
    reserve(out_, static_cast<size_t>(pairs) * hidden_);
    auto with_each = [&](auto work) {
        for (int expert = 0; expert < shape_.experts; ++expert) {
            if (starts_[expert] < starts_[expert + 1]) work(pack.experts[expert], starts_[expert], starts_[expert + 1]);
        }
    };

    resize({pack.experts[0].gate.get(), pack.experts[0].up.get()}, hidden_);
    for_rows(pool, pairs, hidden_, [&](int begin, int end) {
        for (int place = begin; place < end; ++place) {
            if (any_quantized_) copy_row(quantized_, place, quantized, pairs_[place] / top_k);
            if (any_dense_) copy_row(dense_, place, dense, pairs_[place] / top_k);
        }
    });
    with_each([&](const Expert& expert, int m0, int m1) {
        add_chunks(*expert.gate, m0, m1, pool.threads(), gate_.data());
        add_chunks(*expert.up, m0, m1, pool.threads(), up_.data());
    });
    multiply(pool);

    const VectorKernels& kernels = vector_kernels();
    auto* gate = gelu_ ? kernels.gelu_gate : kernels.silu_gate;
    resize({pack.experts[0].down.get()}, width);
    for_rows(pool, pairs, width, [&](int begin, int end) {
        for (size_t at = static_cast<size_t>(begin) * width; at < static_cast<size_t>(end) * width; at += width) {
            gate(gate_.data() + at, up_.data() + at, width);
        }
        if (any_quantized_) prepare(quantized_, gate_.data(), width, begin, end);
        if (any_dense_) prepare(dense_, gate_.data(), width, begin, end);
    });
    with_each([&](const Expert& expert, int m0, int m1) {
        add_chunks(*expert.down, m0, m1, pool.threads(), out_.data());
    });
    multiply(pool);
    combine(pool, rows, x);
}

void Mixture::combine(Pool& pool, int rows, float* x) {
    const size_t hidden = hidden_, top_k = shape_.top_k;
    for_rows(pool, rows, hidden_, [&](int begin, int end) {
        for (size_t row = begin; row < static_cast<size_t>(end); ++row) {
            float* to = x + row * hidden;
            for (size_t rank = 0; rank < top_k; ++rank) {
                const float weight = weights_[row * top_k + rank];
                const float* from = out_.data() + places_[row * top_k + rank] * hidden;
                for (size_t i = 0; i < hidden; ++i) to[i] += weight * from[i];
            }
        }
    });
}

}  // namespace russet
