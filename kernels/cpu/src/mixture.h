// The feed-forward of a mixture of experts: rows gathered by expert, so that each expert's weights are read once a step.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "linear.h"
#include "routing.h"

namespace russet {

class Pool;

// kernels/decoder.py: MixtureSpec.
struct MixtureShape {
    int experts = 0, top_k = 0, intermediate = 0, shared_intermediate = 0;
    bool normalize = false;
};

struct Expert {
    Matrix gate, up, down;
    size_t nbytes() const { return gate->nbytes() + up->nbytes() + down->nbytes(); }
};

// One layer's.
struct MixturePack {
    Matrix router;
    std::vector<Expert> experts;  // all of one form
    Matrix shared_gate;           // null where there is no shared expert
    size_t nbytes() const;
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

    void choose(Pool& pool, const float* logits, int rows);
    // Sorts the (row, rank) pairs by expert, rows ascending.
    void group();
    void add_chunks(const PackedMatrix& matrix, int m0, int m1, int threads, float* y);
    void multiply(Pool& pool);
    // Sizes the inputs of products with both forms that `matrices` want.
    void resize(std::initializer_list<const PackedMatrix*> matrices, int width);
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
    std::vector<Chunk> chunks_;
    Activations quantized_, dense_;
    bool any_quantized_ = false, any_dense_ = false;
};

}  // namespace russet
