// The whole forward of a decoder-only transformer over packed weights, as one ordered side effect on a KV slab.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "attention.h"
#include "batch.h"
#include "linear.h"
#include "mixture.h"
#include "slab.h"

namespace russet {

class Pool;

// kernels/decoder.py: DecoderSpec.
struct DecoderShape {
    int layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, context_length;
    float norm_eps;
    std::vector<double> frequencies;  // radians per position, one per rotated pair
    bool interleaved;
    bool gelu;  // the gate is gelu (tanh) instead of silu
    MixtureShape mixture{};
};

struct LayerPack {
    std::vector<float> attention_norm, mlp_norm;
    Matrix q, k, v, o, gate, up, down;          // the last three are null where a mixture has no shared expert
    std::vector<float> q_bias, k_bias, v_bias;  // all empty where the model has none
    std::vector<float> q_norm, k_norm;          // both empty where the model has none
    std::shared_ptr<const MixturePack> mixture{};  // null where the layer is dense
};

// Cosines and sines [frequencies] of the angles position * frequency, computed in double precision.
void rotation(std::span<const double> frequencies, int position, float* cosines, float* sines);

class Decoder {
  public:
    // Throws std::invalid_argument naming the weight whose shape does not fit.
    Decoder(DecoderShape shape, Matrix embedding, std::vector<LayerPack> layers, std::vector<float> final_norm,
            Matrix head, int max_step_tokens, Rounding rounding);

    const DecoderShape& shape() const { return shape_; }
    SlabShape slab_shape(int pages, int page_size, const std::array<int, 3>& blocks) const {
        return {shape_.layers, shape_.kv_heads, shape_.head_dim, pages, page_size, blocks};
    }
    size_t weight_bytes() const;

    // Throws std::invalid_argument naming what does not fit; reads nothing that another call changes.
    void validate(const DecoderBatch& batch, const KvSlab& slab) const;
    // Computes the batch, writes its K and V, and writes logits [logits_at.size(), vocab] and the hidden states asked for.
    // Throws std::invalid_argument naming the offending value before anything is written. Calls take turns.
    void forward(const DecoderBatch& batch, KvSlab& slab, float* logits);

  private:
    struct Place {
        int page, slot;
    };
    struct Product {
        const PackedMatrix* matrix;
        float* y;
        ptrdiff_t ldy;
    };

    void place(const DecoderBatch& batch, const KvSlab& slab);
    void embed(const DecoderBatch& batch);
    void layer(int index, const DecoderBatch& batch, KvSlab& slab);
    void write_kv(int layer, const LayerPack& weights, KvSlab& slab);
    // Adds the layer's feed-forward to x_.
    void feed_forward(const LayerPack& weights);
    // Adds the dense one to x_, times its row's share where shares are given; its inputs are prepared.
    void dense_feed_forward(const LayerPack& weights, const float* shares);
    // The tokens whose rows are wanted after the last layer: for logits or hidden states.
    std::span<const int32_t> wanted(const DecoderBatch& batch);
    // Writes the hidden states; then x_ has the rows that logits are wanted of.
    void tell_hidden(const DecoderBatch& batch);
    // Activations of `x` in the forms the matrices want; `before` runs first on each row.
    template <typename Before>
    void prepare_rows(std::initializer_list<const PackedMatrix*> matrices, const float* x, int width, Before before);
    void multiply(std::initializer_list<Product> products, Write write);

    DecoderShape shape_;
    Matrix embedding_, head_;
    std::vector<LayerPack> layers_;
    std::vector<float> final_norm_;
    int max_step_tokens_;
    Rounding rounding_;

    std::mutex mutex_;
    Pool* pool_ = nullptr;  // during a forward
    std::optional<Attention> attention_;
    int attention_page_size_ = 0;
    std::vector<BatchRow> rows_;
    std::vector<Place> places_;
    std::vector<int32_t> wanted_;
    std::vector<float> x_, normed_, qkv_, attended_, gate_, up_, cosines_, sines_;
    std::vector<float> router_logits_, shares_;
    Activations quantized_, dense_;
    Mixture mixture_;
    int tokens_ = 0;  // rows of x_ now: the batch's tokens, and after the last layer's attention the wanted ones
};

}  // namespace russet
