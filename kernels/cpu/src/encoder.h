// The whole forward of a BERT-style sentence encoder over packed weights: texts of token ids to unit vectors.
//
// Texts lie one behind another without padding, and a text's vector is the same bits whatever other texts are with it:
// of one of them nothing is computed with numbers of another.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "linear.h"
#include "vector_kernels.h"

namespace russet {

class Pool;

// kernels/encoder.py: EncoderSpec.
struct EncoderShape {
    int layers, hidden, heads, intermediate, vocab, positions;
    float norm_eps;
};

struct Affine {
    Matrix weight;
    std::vector<float> bias;
};

struct Norm {
    std::vector<float> weight, bias;
};

struct EncoderLayerPack {
    Affine qkv, output, up, down;  // q, k and v are one matrix [3 * hidden, hidden]
    Norm attention_norm, mlp_norm;
};

class Encoder {
  public:
    // words: float32 [vocab][hidden], copied; positions: [positions][hidden], that of the one token type added.
    // Throws std::invalid_argument naming what does not fit the shape.
    Encoder(EncoderShape shape, const float* words, std::vector<float> positions, Norm norm,
            std::vector<EncoderLayerPack> layers);

    const EncoderShape& shape() const { return shape_; }
    size_t weight_bytes() const;

    // Texts of lengths[i] tokens each, side by side in `tokens`, to out [texts][hidden], of length 1.
    // Throws std::invalid_argument naming the offending value before anything is written. Calls take turns.
    void forward(std::span<const int32_t> tokens, std::span<const int32_t> lengths, float* out);

  private:
    void check(std::span<const int32_t> tokens, std::span<const int32_t> lengths) const;
    void place(std::span<const int32_t> lengths);
    // Of a text's rows, for for_rows over texts.
    int text_floats() const;
    void embed(std::span<const int32_t> tokens);
    void layer(const EncoderLayerPack& weights);
    // x [tokens_][inputs] times the matrix, stored in (or added to) y [tokens_][outputs]; then after(part of a row of y,
    // its first output, outputs) of each.
    template <typename After>
    void multiply(const PackedMatrix& matrix, const float* x, float* y, Write write, After after);
    void attend();
    // x_ = norm(x_ + bias), row by row.
    void normalise(const std::vector<float>& bias, const Norm& norm);
    void pool_texts(float* out);

    struct Text {
        int first, tokens;
    };

    EncoderShape shape_;
    AlignedBytes words_;
    std::vector<float> positions_;
    Norm norm_;
    std::vector<EncoderLayerPack> layers_;

    std::mutex mutex_;
    Pool* pool_ = nullptr;  // during a forward
    std::vector<Text> texts_;
    int tokens_ = 0;
    std::vector<float> x_, qkv_, attended_, inner_;
};

}  // namespace russet
