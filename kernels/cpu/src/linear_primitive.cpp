#include "linear_primitive.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "pool.h"

namespace russet {
namespace {

namespace mx = mlx::core;
using Weights = std::shared_ptr<const PackedMatrix>;

// dx[m][k] = sum over n, ascending, of dy[m][n] * w[n][k]. Each weight row is dequantized once per chunk of rows.
void multiply_transposed(Pool& pool, const PackedMatrix& w, const float* dy, int rows, float* dx) {
    constexpr int kRowsPerChunk = 32;
    pool.run((rows + kRowsPerChunk - 1) / kRowsPerChunk, [&](int chunk) {
        const int m0 = chunk * kRowsPerChunk, m1 = std::min(m0 + kRowsPerChunk, rows), k = w.k();
        std::fill(dx + static_cast<size_t>(m0) * k, dx + static_cast<size_t>(m1) * k, 0.0f);
        std::vector<float> weights(k);
        for (int n = 0; n < w.n(); ++n) {
            dequantize_row(w, n, weights.data());
            for (int m = m0; m < m1; ++m) {
                const float factor = dy[static_cast<size_t>(m) * w.n() + n];
                float* out = dx + static_cast<size_t>(m) * k;
                for (int i = 0; i < k; ++i) out[i] += factor * weights[i];
            }
        }
    });
}

// What the product and its transpose share: one float32 input and output, an evaluation on the CPU stream.
class WeightPrimitive : public mx::Primitive {
  public:
    WeightPrimitive(mx::Stream stream, Weights w) : Primitive(stream), w_(std::move(w)) {}

    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error(std::string(name()) + " runs on the CPU only; use MLX's own operations on a GPU");
    }

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        mx::array& out = outputs[0];
        out.set_data(mx::allocator::malloc(out.nbytes()));
        auto& encoder = mx::cpu::get_command_encoder(stream());
        encoder.set_input_array(inputs[0]);
        encoder.set_output_array(out);
        const int rows = static_cast<int>(inputs[0].size() / inputs[0].shape().back());
        encoder.dispatch([this_w = w_, run = runner(), x = inputs[0].data<float>(), y = out.data<float>(), rows] {
            run(*this_w, x, rows, y);
        });
    }

    bool is_equivalent(const mx::Primitive& other) const override {
        return w_ == static_cast<const WeightPrimitive&>(other).w_;
    }

  protected:
    using Runner = void (*)(const PackedMatrix&, const float* x, int rows, float* y);
    virtual Runner runner() const = 0;

    Weights w_;
};

class PackedLinear : public WeightPrimitive {
  public:
    PackedLinear(mx::Stream stream, Weights w, Rounding rounding)
        : WeightPrimitive(stream, std::move(w)), rounding_(rounding) {}
    const char* name() const override { return "PackedLinear"; }

    std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>& cotangents,
                               const std::vector<int>&, const std::vector<mx::array>&) override {
        return {linear_transposed(cotangents[0], w_)};
    }
    std::vector<mx::array> jvp(const std::vector<mx::array>&, const std::vector<mx::array>& tangents,
                               const std::vector<int>&) override {
        return {linear(tangents[0], w_, rounding_)};
    }
    bool is_equivalent(const mx::Primitive& other) const override {
        return WeightPrimitive::is_equivalent(other) && rounding_ == static_cast<const PackedLinear&>(other).rounding_;
    }

  protected:
    Runner runner() const override { return rounding_ == Rounding::Fine ? run<Rounding::Fine> : run<Rounding::Mixed>; }

  private:
    template <Rounding rounding>
    static void run(const PackedMatrix& w, const float* x, int rows, float* y) {
        Activations scratch;
        linear(pool(), w, rounding, scratch, x, rows, y);
    }

    Rounding rounding_;
};

class PackedLinearTransposed : public WeightPrimitive {
  public:
    using WeightPrimitive::WeightPrimitive;
    const char* name() const override { return "PackedLinearTransposed"; }

    std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>& cotangents,
                               const std::vector<int>&, const std::vector<mx::array>&) override {
        return {linear(cotangents[0], w_, Rounding::Fine)};
    }

  protected:
    Runner runner() const override {
        return [](const PackedMatrix& w, const float* x, int rows, float* y) {
            multiply_transposed(pool(), w, x, rows, y);
        };
    }
};

template <typename Product, typename... More>
mx::array apply(const mx::array& x, Weights w, int inputs, int outputs, More... more) {
    if (x.ndim() == 0 || x.shape(-1) != inputs) {
        std::string last = x.ndim() == 0 ? "no dimension" : std::to_string(x.shape(-1));
        throw std::invalid_argument("the last dimension of the input is " + last + "; accepted: " +
                                    std::to_string(inputs));
    }
    mx::Shape shape = x.shape();
    shape.back() = outputs;
    if (x.size() == 0) return mx::zeros(shape, mx::float32);
    mx::Stream stream = mx::default_stream(mx::Device::cpu);
    mx::array floats = mx::contiguous(mx::astype(x, mx::float32, stream), false, stream);
    return mx::array(std::move(shape), mx::float32, std::make_shared<Product>(stream, std::move(w), more...), {floats});
}

}  // namespace

mx::array linear(const mx::array& x, Weights w, Rounding rounding) {
    int inputs = w->k(), outputs = w->n();
    return apply<PackedLinear>(x, std::move(w), inputs, outputs, rounding);
}

mx::array linear_transposed(const mx::array& y, Weights w) {
    int inputs = w->n(), outputs = w->k();
    return apply<PackedLinearTransposed>(y, std::move(w), inputs, outputs);
}

}  // namespace russet
