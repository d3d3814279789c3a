// Python's view of the decoder's parts, one at a time, over NumPy arrays: for kernels/ops.py and the tests.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "attention.h"
#include "attention_benchmark.h"
#include "decoder.h"
#include "pool.h"
#include "vector_kernels.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace russet {
namespace {

template <typename T, int kDims>
using In = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <typename T, int kDims>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<kDims>>;

template <typename T, int kDims>
Out<T, kDims> make(std::initializer_list<size_t> shape) {
    size_t size = 1;
    for (size_t n : shape) size *= n;
    T* data = new T[size];
    return Out<T, kDims>(data, shape, nb::capsule(data, [](void* p) noexcept { delete[] static_cast<T*>(p); }));
}

void want(bool holds, const std::string& otherwise) {
    if (!holds) throw std::invalid_argument(otherwise);
}

Out<float, 2> rms_norm(const In<float, 2>& x, const In<float, 1>& weight, float eps) {
    const size_t rows = x.shape(0), n = x.shape(1);
    want(weight.shape(0) == n,
         "the norm has " + std::to_string(weight.shape(0)) + " weights; x has rows of " + std::to_string(n));
    auto out = make<float, 2>({rows, n});
    for (size_t r = 0; r < rows; ++r) {
        vector_kernels().rms_norm(x.data() + r * n, weight.data(), eps, static_cast<int>(n), out.data() + r * n);
    }
    return out;
}

Out<float, 2> gate(const In<float, 2>& x, const In<float, 2>& up, bool gelu) {
    const size_t rows = x.shape(0), n = x.shape(1);
    want(up.shape(0) == rows && up.shape(1) == n, "gate and up must have the same shape");
    auto out = make<float, 2>({rows, n});
    std::copy_n(x.data(), rows * n, out.data());
    auto* kernel = gelu ? vector_kernels().gelu_gate : vector_kernels().silu_gate;
    for (size_t r = 0; r < rows; ++r) kernel(out.data() + r * n, up.data() + r * n, static_cast<int>(n));
    return out;
}

Out<float, 3> rope(const In<float, 3>& x, const In<int32_t, 1>& positions, const std::vector<double>& frequencies,
                   bool interleaved) {
    const size_t tokens = x.shape(0), heads = x.shape(1), dim = x.shape(2);
    want(positions.shape(0) == tokens, "there must be one position per token");
    want(2 * frequencies.size() <= dim, "there are more frequencies than pairs in a head");
    auto out = make<float, 3>({tokens, heads, dim});
    std::copy_n(x.data(), tokens * heads * dim, out.data());
    const int pairs = static_cast<int>(frequencies.size());
    std::vector<float> cosines(pairs), sines(pairs);
    for (size_t t = 0; t < tokens; ++t) {
        rotation(frequencies, positions.data()[t], cosines.data(), sines.data());
        for (size_t h = 0; h < heads; ++h) {
            vector_kernels().rope(out.data() + (t * heads + h) * dim, cosines.data(), sines.data(), pairs, interleaved);
        }
    }
    return out;
}

Out<uint16_t, 1> to_half(const In<float, 1>& x) {
    auto out = make<uint16_t, 1>({x.shape(0)});
    vector_kernels().to_half(x.data(), static_cast<int>(x.shape(0)), out.data());
    return out;
}

// Checks that q fits the slab.
void want_queries(const In<float, 3>& q, const SlabShape& s) {
    want(q.shape(1) > 0 && q.shape(1) % s.kv_heads == 0 && q.shape(2) == static_cast<size_t>(s.head_dim),
         "q must be [tokens, a multiple of " + std::to_string(s.kv_heads) + " heads, " + std::to_string(s.head_dim) +
             "]");
}

// The rows of q's tokens, checked; the pages are borrowed from page_table.
std::vector<BatchRow> rows_of(const In<float, 3>& q, const In<int32_t, 1>& row_starts, const In<int32_t, 1>& lengths,
                              const In<int32_t, 2>& page_table, const SlabShape& s,
                              std::span<const int32_t> parents = {}) {
    BatchRows batch{{row_starts.data(), row_starts.shape(0)},
                    {lengths.data(), lengths.shape(0)},
                    {page_table.data(), page_table.shape(0) * page_table.shape(1)},
                    static_cast<int>(page_table.shape(1)),
                    parents};
    check_rows(batch, static_cast<int64_t>(q.shape(0)), 1 << 30, s);
    return split_rows(batch);
}

// Writes the tokens' K and V into one layer of the slab, then attends: what a layer of the decoder does in between.
Out<float, 3> attend(KvSlab& slab, int layer, const In<float, 3>& q, const In<float, 3>& k, const In<float, 3>& v,
                     const In<int32_t, 1>& row_starts, const In<int32_t, 1>& lengths, const In<int32_t, 2>& page_table,
                     float scale, const std::optional<In<int32_t, 1>>& parents) {
    const SlabShape& s = slab.shape();
    const size_t tokens = q.shape(0), heads = q.shape(1), dim = q.shape(2), kv_heads = s.kv_heads;
    want(layer >= 0 && layer < s.layers, "layer " + std::to_string(layer) + " is not in the slab");
    want_queries(q, s);
    for (const auto* x : {&k, &v}) {
        want(x->shape(0) == tokens && x->shape(1) == kv_heads && x->shape(2) == dim, "k and v must fit q and the slab");
    }
    auto out = make<float, 3>({tokens, heads, dim});
    nb::gil_scoped_release released;
    std::span<const int32_t> tree;
    if (parents) tree = {parents->data(), parents->shape(0)};
    std::vector<BatchRow> rows = rows_of(q, row_starts, lengths, page_table, s, tree);
    for (const BatchRow& row : rows) {
        for (int t = 0; t < row.tokens; ++t) {
            const int slot = row.length + t;
            const size_t at = (row.first_token + t) * kv_heads * dim;
            slab.write(row.pages[slot / s.page_size], layer, slot % s.page_size, k.data() + at, v.data() + at);
        }
    }
    Attention attention(static_cast<int>(heads), s, scale);
    attention.plan(rows, pool().threads());
    const int stride = static_cast<int>(heads * dim);
    attention.run(pool(), slab, layer, q.data(), stride, out.data(), stride);
    return out;
}

double time_attend(const KvSlab& slab, const In<float, 3>& q, const In<int32_t, 1>& row_starts,
                   const In<int32_t, 1>& lengths, const In<int32_t, 2>& page_table, int rounds) {
    want_queries(q, slab.shape());
    nb::gil_scoped_release released;
    std::vector<BatchRow> rows = rows_of(q, row_starts, lengths, page_table, slab.shape());
    return time_attention(slab, static_cast<int>(q.shape(1)), q.data(), rows, rounds);
}

}  // namespace

void bind_operations(nb::module_& m) {
    m.def("rms_norm", &rms_norm, "x"_a.noconvert(), "weight"_a.noconvert(), "eps"_a,
          "x [R, N] / sqrt(mean(x^2) + eps) * weight [N], by row.");
    m.def("gate", &gate, "gate"_a.noconvert(), "up"_a.noconvert(), "gelu"_a,
          "silu(gate) * up, or gelu (tanh) instead of silu; both [R, N].");
    m.def("rope", &rope, "x"_a.noconvert(), "positions"_a.noconvert(), "frequencies"_a, "interleaved"_a,
          "Rotate x [T, H, D] by positions [T] (kernels/decoder.py: Rope).");
    m.def("to_half", &to_half, "x"_a.noconvert(),
          "The bits of x [N] in half precision; past the largest half, that half.");
    m.def("attend", &attend, "slab"_a, "layer"_a, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(),
          "row_starts"_a.noconvert(), "lengths"_a.noconvert(), "page_table"_a.noconvert(), "scale"_a,
          "parents"_a.noconvert() = nb::none(),
          "Write k and v [T, kv_heads, D] into a layer of the slab, then attend with q [T, heads, D] (the geometry is "
          "Batch's).");
    m.def("time_attend", &time_attend, "slab"_a, "q"_a.noconvert(), "row_starts"_a.noconvert(), "lengths"_a.noconvert(),
          "page_table"_a.noconvert(), "rounds"_a,
          "Least seconds, over `rounds`, of attending with q [T, heads, D] in every layer of the slab in turn.");
}

}  // namespace russet
