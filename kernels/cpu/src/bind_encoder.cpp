// Python's view of the sentence encoder and of its row operations. Calls that compute release the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "encoder.h"
#include "vector_kernels.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace russet {
namespace {

template <typename T, int kDims>
using In = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <typename T, int kDims>
using Out = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

std::vector<float> copied(const In<float, 1>& values) { return {values.data(), values.data() + values.shape(0)}; }

Affine affine(Matrix weight, const In<float, 1>& bias) { return {std::move(weight), copied(bias)}; }

Norm norm(const In<float, 1>& weight, const In<float, 1>& bias) { return {copied(weight), copied(bias)}; }

void forward(Encoder& encoder, const In<int32_t, 1>& tokens, const In<int32_t, 1>& lengths, const Out<float, 2>& out) {
    const size_t texts = lengths.shape(0), width = encoder.shape().hidden;
    if (out.shape(0) != texts || out.shape(1) != width) {
        throw std::invalid_argument("out is [" + std::to_string(out.shape(0)) + ", " + std::to_string(out.shape(1)) +
                                    "]; it must be [" + std::to_string(texts) + ", " + std::to_string(width) + "]");
    }
    nb::gil_scoped_release released;
    encoder.forward({tokens.data(), tokens.shape(0)}, {lengths.data(), texts}, out.data());
}

void want_width(const char* name, size_t got, size_t n) {
    if (got == n) return;
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(got) + " values; x has rows of " +
                                std::to_string(n));
}

void want_rows(const char* name, const In<float, 2>& array, int rows, int width) {
    const int64_t got_rows = array.shape(0), got_width = array.shape(1);
    if (got_rows == rows && got_width == width) return;
    throw std::invalid_argument(std::string(name) + " is [" + std::to_string(got_rows) + ", " +
                                std::to_string(got_width) + "]; the spec wants [" + std::to_string(rows) + ", " +
                                std::to_string(width) + "]");
}

Rows like(const In<float, 2>& x) {
    const size_t rows = x.shape(0), n = x.shape(1);
    float* data = new float[std::max<size_t>(rows * n, 1)];
    std::copy_n(x.data(), rows * n, data);
    return Rows(data, {rows, n}, nb::capsule(data, [](void* p) noexcept { delete[] static_cast<float*>(p); }));
}

Rows layer_norm(const In<float, 2>& x, const In<float, 1>& y, const In<float, 1>& weight, const In<float, 1>& bias,
                float eps) {
    const size_t n = x.shape(1);
    want_width("y", y.shape(0), n);
    want_width("weight", weight.shape(0), n);
    want_width("bias", bias.shape(0), n);
    Rows out = like(x);
    for (size_t r = 0; r < x.shape(0); ++r) {
        float* row = out.data() + r * n;
        vector_kernels().layer_norm(row, y.data(), weight.data(), bias.data(), eps, static_cast<int>(n), row);
    }
    return out;
}

Rows bias_gelu(const In<float, 2>& x, const In<float, 1>& bias) {
    const size_t n = x.shape(1);
    want_width("bias", bias.shape(0), n);
    Rows out = like(x);
    for (size_t r = 0; r < x.shape(0); ++r) {
        vector_kernels().bias_gelu(out.data() + r * n, bias.data(), static_cast<int>(n));
    }
    return out;
}

}  // namespace

void bind_encoder(nb::module_& m) {
    nb::class_<Affine>(m, "Affine", "A packed dense matrix [N, K] and its bias [N].")
        .def(nb::new_(&affine), "weight"_a, "bias"_a);
    nb::class_<Norm>(m, "Norm", "Weight and bias [H] of a layer norm.").def(nb::new_(&norm), "weight"_a, "bias"_a);
    nb::class_<EncoderLayerPack>(m, "EncoderLayerPack", "A block's weights; q, k and v are one matrix.")
        .def(
            "__init__",
            [](EncoderLayerPack* self, const Affine& qkv, const Affine& output, const Affine& up, const Affine& down,
               const Norm& attention_norm, const Norm& mlp_norm) {
                new (self) EncoderLayerPack{qkv, output, up, down, attention_norm, mlp_norm};
            },
            nb::kw_only(), "qkv"_a, "output"_a, "up"_a, "down"_a, "attention_norm"_a, "mlp_norm"_a);
    nb::class_<Encoder>(m, "Encoder", "A sentence encoder over packed weights. Forwards take turns.")
        .def(
            "__init__",
            [](Encoder* self, int layers, int hidden, int heads, int intermediate, int vocab, int positions,
               float norm_eps, const In<float, 2>& words, const In<float, 2>& position_rows, const Norm& norm,
               std::vector<EncoderLayerPack> packs) {
                const EncoderShape shape{layers, hidden, heads, intermediate, vocab, positions, norm_eps};
                want_rows("words", words, vocab, hidden);
                want_rows("position_rows", position_rows, positions, hidden);
                const float* rows = position_rows.data();
                new (self) Encoder(shape, words.data(), {rows, rows + position_rows.size()}, norm, std::move(packs));
            },
            nb::kw_only(), "layers"_a, "hidden"_a, "heads"_a, "intermediate"_a, "vocab"_a, "positions"_a, "norm_eps"_a,
            "words"_a, "position_rows"_a, "norm"_a, "packs"_a)
        .def_prop_ro("weight_bytes", &Encoder::weight_bytes, "Bytes of its weights.")
        .def("forward", &forward, "tokens"_a, "lengths"_a, "out"_a,
             "Texts of lengths [n] tokens each, side by side in tokens, int32, to out float32 [n, hidden].");
    m.def("layer_norm", &layer_norm, "x"_a, "y"_a, "weight"_a, "bias"_a, "eps"_a,
          "Rows of x + y, less their mean, over their deviation, times weight plus bias.");
    m.def("bias_gelu", &bias_gelu, "x"_a, "bias"_a,
          "Rows of x + bias, each times the normal distribution function of it.");
}

}  // namespace russet
