#include "mixture.h"

#include <algorithm>
#include <chrono>
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

// In which forms matrices want their inputs.
struct Form {
    bool quantized = false, dense = false;
};

Form form(std::initializer_list<const PackedMatrix*> matrices) {
    Form found;
    for (const PackedMatrix* matrix : matrices) (matrix->quantized() ? found.quantized : found.dense) = true;
    return found;
}

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

void Mixture::choose(Pool& pool, const MixturePack& pack, const float* logits, int rows) {
    Routing routing{shape_.top_k, shape_.normalize};
    std::span<const uint8_t> resident;
    if (pack.pager) {
        resident = pack.pager->route(pack.paged_layer);
        routing.bonus = pack.pager->bonus();
    }
    const auto begin = std::chrono::steady_clock::now();
    const size_t experts = shape_.experts, top_k = shape_.top_k;
    ids_.resize(rows * top_k);
    weights_.resize(rows * top_k);
    constexpr int kFloatsPerLogit = 8;  // an exponential costs as much as so many floats of other phases
    for_rows(pool, rows, shape_.experts * kFloatsPerLogit, [&](int begin, int end) {
        for (size_t row = begin; row < static_cast<size_t>(end); ++row) {
            choose_experts({logits + row * experts, experts}, resident, routing, ids_.data() + row * top_k,
                           weights_.data() + row * top_k);
        }
    });
    if (!pack.pager) return;
    const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - begin;
    pack.pager->record(pack.paged_layer, ids_, shape_.top_k, took.count());
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

void Mixture::multiply(Pool& pool, const Activations& quantized, const Activations& dense) {
    pool.run(static_cast<int>(chunks_.size()), [&](int index) {
        const Chunk& c = chunks_[index];
        linear_chunk(*c.matrix, c.matrix->quantized() ? quantized : dense, c.m0, c.m1, c.n0, c.n1, c.y, c.matrix->n());
    });
    chunks_.clear();
}

void Mixture::run(Pool& pool, const MixturePack& pack, const Activations& quantized, const Activations& dense,
                  const float* logits, int rows, float* x) {
    choose(pool, pack, logits, rows);
    group();
    const int pairs = static_cast<int>(pairs_.size()), top_k = shape_.top_k;
    reserve(gate_, static_cast<size_t>(pairs) * shape_.intermediate);
    reserve(up_, static_cast<size_t>(pairs) * shape_.intermediate);
    reserve(out_, static_cast<size_t>(pairs) * hidden_);

    const Form into = form({pack.experts[0].gate.get(), pack.experts[0].up.get()});
    const Form from = form({pack.experts[0].down.get()});
    if (into.quantized) quantized_.resize(pairs, hidden_, true, rounding_);
    if (into.dense) dense_.resize(pairs, hidden_, false, rounding_);
    if (from.quantized) inner_quantized_.resize(pairs, shape_.intermediate, true, rounding_);
    if (from.dense) inner_dense_.resize(pairs, shape_.intermediate, false, rounding_);
    for_rows(pool, pairs, hidden_, [&](int begin, int end) {
        for (int place = begin; place < end; ++place) {
            if (into.quantized) copy_row(quantized_, place, quantized, pairs_[place] / top_k);
            if (into.dense) copy_row(dense_, place, dense, pairs_[place] / top_k);
        }
    });

    wanted_.clear();
    for (int expert = 0; expert < shape_.experts; ++expert) {
        if (starts_[expert] < starts_[expert + 1]) wanted_.push_back(expert);
    }
    if (!pack.pager) {
        compute(pool, pack, wanted_);
    } else {
        while (!wanted_.empty()) {  // as many at a time as fit into memory together
            pack.pager->admit(pack.paged_layer, wanted_, ready_);
            compute(pool, pack, ready_);
            std::erase_if(wanted_, [&](int32_t expert) { return std::ranges::binary_search(ready_, expert); });
        }
    }
    combine(pool, rows, x);
}

void Mixture::compute(Pool& pool, const MixturePack& pack, std::span<const int32_t> experts) {
    const int width = shape_.intermediate, threads = pool.threads();
    const auto of = [&](int expert) -> const Expert& {
        return pack.pager ? pack.pager->expert(pack.paged_layer, expert) : pack.experts[expert];
    };
    for (int expert : experts) {
        add_chunks(*of(expert).gate, starts_[expert], starts_[expert + 1], threads, gate_.data());
        add_chunks(*of(expert).up, starts_[expert], starts_[expert + 1], threads, up_.data());
    }
    multiply(pool, quantized_, dense_);

    const VectorKernels& kernels = vector_kernels();
    auto* gate = gelu_ ? kernels.gelu_gate : kernels.silu_gate;
    const Form form_of_down = form({pack.experts[0].down.get()});
    pool.run(static_cast<int>(experts.size()), [&](int index) {
        const int begin = starts_[experts[index]], end = starts_[experts[index] + 1];
        for (size_t at = static_cast<size_t>(begin) * width; at < static_cast<size_t>(end) * width; at += width) {
            gate(gate_.data() + at, up_.data() + at, width);
        }
        if (form_of_down.quantized) prepare(inner_quantized_, gate_.data(), width, begin, end);
        if (form_of_down.dense) prepare(inner_dense_, gate_.data(), width, begin, end);
    });
    for (int expert : experts) {
        add_chunks(*of(expert).down, starts_[expert], starts_[expert + 1], threads, out_.data());
    }
    multiply(pool, inner_quantized_, inner_dense_);
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
