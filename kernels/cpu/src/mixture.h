// The feed-forward of a mixture of experts: rows gathered by expert, so that each expert's weights are read once a step.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "expert_pager.h"
#include "linear.h"
#include "routing.h"

namespace russet {

class Pool;

// kernels/decoder.py: MixtureSpec.
struct MixtureShape {
    int experts = 0, top_k = 0, intermediate = 0, shared_intermediate = 0;
    bool normalize = false;
};

// One layer's.
struct MixturePack {
    Matrix router;
    std::vector<Expert> experts;  // all of one form; where they are paged the first alone, as a sample of it
    Matrix shared_gate;           // null where there is no shared expert
    std::shared_ptr<ExpertPager> pager{};  // null where all experts are in memory
    int paged_layer = 0;                   // the pager's number of this layer
    size_t nbytes() const;  // of what is in memory, apart from the pager's
};

class Mixture {
  public:
    // Throws std::invalid_argument for a top_k that cannot be.
    Mixture(MixtureShape shape, int hidden, bool gelu, Rounding rounding);

    // Adds to x [rows][hidden] what each row's experts say, by their weights, best first. `quantized` or `dense` holds the
    // rows prepared as the experts' gates and ups want them; logits [rows][experts] are the router's. A row's result
    // depends on no other row. A row whose logits are not finite becomes NaN.
    void run(Pool& pool, const MixturePack& pack, const Activations& quantized, const Activations& dense,
             const float* logits, int rows, float* x);

  private:
    // Part of a product: rows m0..m1 and outputs n0..n1.
    struct Chunk {
        const PackedMatrix* matrix;
        int m0, m1, n0, n1;
        float* y;
    };

    void choose(Pool& pool, const MixturePack& pack, const float* logits, int rows);
    // Sorts the (row, rank) pairs by expert, rows ascending.
    void group();
    void add_chunks(const PackedMatrix& matrix, int m0, int m1, int threads, float* y);
    void multiply(Pool& pool, const Activations& quantized, const Activations& dense);
    // The rows of these experts through them, into out_.
    void compute(Pool& pool, const MixturePack& pack, std::span<const int32_t> experts);
    void combine(Pool& pool, int rows, float* x);

    MixtureShape shape_;
    int hidden_;
    bool gelu_;
    Rounding rounding_;

    std::vector<int32_t> ids_;      // [rows][top_k]
    std::vector<float> weights_;    // [rows][top_k]
    std::vector<int32_t> starts_;   // [experts + 1], into pairs_
    std::vector<int32_t> pairs_;    // row * top_k + rank, by expert
    std::vector<int32_t> places_;   // of each pair, where it stands in pairs_
    std::vector<float> gate_, up_, out_;
    std::vector<int32_t> wanted_, ready_;  // experts that the step has rows for, and those that are in memory now
    std::vector<Chunk> chunks_;
    // Rows by expert: inputs of gate and up, and of down.
    Activations quantized_, dense_, inner_quantized_, inner_dense_;
};

}  // namespace russet
