// Python's view of the packed weights, their operations, the instruction set and the threads.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "isa.h"
#include "linear.h"
#include "linear_benchmark.h"
#include "linear_primitive.h"
#include "mlx/allocator.h"
#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace russet {
namespace {

namespace mx = mlx::core;
using Weights = std::shared_ptr<const PackedMatrix>;

std::string text(const mx::Shape& shape) {
    std::string out = "[";
    for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
}

Float float_type(const mx::array& a, const char* what) {
    if (a.dtype() == mx::float32) return Float::Float32;
    if (a.dtype() == mx::bfloat16) return Float::Bfloat16;
    if (a.dtype() == mx::float16) return Float::Float16;
    throw std::invalid_argument(std::string(what) + " have an unsupported type; accepted: float32, bfloat16, float16");
}

mx::array on_cpu(const mx::array& a) {
    mx::array out = mx::contiguous(a, false, mx::Device::cpu);
    out.eval();
    return out;
}

Weights pack_affine_arrays(const mx::array& weight, const mx::array& scales, const mx::array& biases, int bits,
                           int group_size) {
    if (weight.ndim() != 2 || weight.dtype() != mx::uint32) {
        throw std::invalid_argument("a quantized weight is uint32 [N, K * bits / 32], not of shape " +
                                    text(weight.shape()));
    }
    if (bits != 4 && bits != 8) throw std::invalid_argument("bits is " + std::to_string(bits) + "; accepted: 4 or 8");
    const int n = weight.shape(0), k = weight.shape(1) * 32 / bits;
    if (group_size < 1 || scales.shape() != biases.shape() || scales.shape() != mx::Shape{n, k / group_size}) {
        throw std::invalid_argument("scales and biases of shapes " + text(scales.shape()) + " and " +
                                    text(biases.shape()) + "; accepted: [N, K / group_size] of a weight of N = " +
                                    std::to_string(n) + ", K = " + std::to_string(k) +
                                    ", group_size = " + std::to_string(group_size));
    }
    mx::array w = on_cpu(weight), s = on_cpu(scales), b = on_cpu(mx::astype(biases, scales.dtype()));
    return std::make_shared<const PackedMatrix>(pack_affine({w.data<uint32_t>(), s.data<void>(), b.data<void>(),
                                                             float_type(s, "scales"), n, k, bits, group_size}));
}

Weights pack_dense_array(const mx::array& weight) {
    if (weight.ndim() != 2) {
        throw std::invalid_argument("a dense weight is [N, K], not of shape " + text(weight.shape()));
    }
    Float type = float_type(weight, "weights");
    mx::array w = on_cpu(weight);
    return std::make_shared<const PackedMatrix>(pack_dense(w.data<void>(), type, w.shape(0), w.shape(1)));
}

mx::array embedding(const mx::array& ids, const Weights& w) {
    mx::array at = on_cpu(mx::astype(ids, mx::int32));
    const int32_t* rows = at.data<int32_t>();
    for (size_t i = 0; i < at.size(); ++i) {
        if (rows[i] < 0 || rows[i] >= w->n()) {
            throw std::out_of_range("id " + std::to_string(rows[i]) + "; accepted: 0 to " + std::to_string(w->n() - 1));
        }
    }
    mx::Shape shape = at.shape();
    shape.push_back(w->k());
    mx::allocator::Data data = mx::allocator::malloc(at.size() * w->k() * sizeof(float));
    float* out = static_cast<float*>(data.buffer().raw_ptr());
    pool().run(static_cast<int>(at.size()),
                [&](int i) { dequantize_row(*w, rows[i], out + static_cast<size_t>(i) * w->k()); });
    return mx::array(std::move(data), std::move(shape), mx::float32);
}

}  // namespace

void bind_linear(nb::module_& m) {
    nb::class_<PackedMatrix>(m, "PackedMatrix", "A weight matrix [N outputs, K inputs], repacked for the CPU kernels.")
        .def_prop_ro("shape", [](const PackedMatrix& w) { return nb::make_tuple(w.n(), w.k()); }, "(N, K)")
        .def_prop_ro("nbytes", &PackedMatrix::nbytes, "Bytes it holds.")
        .def_prop_ro("quantized", &PackedMatrix::quantized, "Whether its values are 4- or 8-bit groups.");

    m.def("pack_affine", &pack_affine_arrays, "weight"_a, "scales"_a, "biases"_a, "bits"_a, "group_size"_a,
          nb::call_guard<nb::gil_scoped_release>(),
          "Pack MLX's affine groups: uint32 [N, K * bits / 32], scales and biases [N, K / group_size].");
    m.def("pack_dense", &pack_dense_array, "weight"_a, nb::call_guard<nb::gil_scoped_release>(),
          "Pack a dense float32, bfloat16 or float16 matrix [N, K].");
    m.def(
        "linear",
        [](const mx::array& x, const Weights& w, bool fine) {
            return linear(x, w, fine ? Rounding::Fine : Rounding::Mixed);
        },
        "x"_a, "weight"_a, "fine"_a = true,
        "x [.., K] times the weight's transpose: float32 [.., N]. Lazy; differentiable in x. Where not fine, activations "
        "that quantized weights meet are rounded as the decoder rounds them by default.");
    m.def(
        "linear_transposed", [](const mx::array& y, const Weights& w) { return linear_transposed(y, w); }, "y"_a,
        "weight"_a, "y [.., N] times the dequantized weight: float32 [.., K]. Lazy; differentiable in y.");
    m.def("embedding", &embedding, "ids"_a, "weight"_a, nb::call_guard<nb::gil_scoped_release>(),
          "Rows of the dequantized weight: ids [..] to float32 [.., K]. Evaluates ids; IndexError where one is out of "
          "range.");

    m.def(
        "time_linear",
        [](const mx::array& x, const std::vector<std::shared_ptr<PackedMatrix>>& weights, int rounds) {
            std::vector<Weights> all(weights.begin(), weights.end());
            for (const Weights& w : all) {
                if (x.ndim() != 2 || x.shape(1) != w->k()) throw std::invalid_argument("x is not [rows, K] of a weight");
            }
            mx::array rows = on_cpu(mx::astype(x, mx::float32));
            return time_linear(all, rows.data<float>(), rows.shape(0), rounds);
        },
        "x"_a, "weights"_a, "rounds"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Least seconds, over `rounds`, of multiplying x [rows, K] by each weight in turn, without MLX's graph.");
    m.def("read_bandwidth", &read_bandwidth, "nbytes"_a, nb::call_guard<nb::gil_scoped_release>(),
          "Bytes per second at which the threads together read that much memory.");

    m.def("isa", [] { return std::string(name(active())); }, "The instruction set in use.");
    m.def("isa_class", &isa_class, "Architecture and instruction set: equal ones compute equal bits.");
    m.def("set_isa", &force, "name"_a, "Use this instruction set; \"auto\" is the best one. ValueError names those here.");
    m.def(
        "supported_isas",
        [](bool emulated) {
            std::vector<std::string> names;
            for (Isa isa : supported(emulated)) names.emplace_back(name(isa));
            return names;
        },
        "emulated"_a = false,
        "The instruction sets that run here, fastest first. With `emulated`, those that only tests force as well.");
    m.def("amx_refusal", &amx_refusal,
          "Why AMX is not used although the processor has it; empty where it has none, or where it is used.");
    m.def(
        "assume_amx",
        [](bool saved, int refusal) {
            Features features = detect();
            features.amx_int8 = true;
            features.amx_saved = saved;
            features.amx_refusal = refusal;
            assume(features);
        },
        "saved"_a, "refusal"_a,
        "For tests: as if the processor had AMX, the system saved its tiles or not, and answered the request for them "
        "with this errno (0 grants it). Until detect_isa().");
    m.def("detect_isa", [] { assume(detect()); }, "Find what this machine has, again, and use the fastest.");
    m.def(
        "count_chunks",
        [](int chunks, int phases) {
            std::vector<std::atomic<int>> counts(chunks);
            for (int phase = 0; phase < phases; ++phase) {
                pool().run(chunks, [&](int chunk) { counts[chunk].fetch_add(1, std::memory_order_relaxed); });
            }
            return std::vector<int>(counts.begin(), counts.end());
        },
        "chunks"_a, "phases"_a, nb::call_guard<nb::gil_scoped_release>(),
        "How often each chunk ran when so many phases of `chunks` chunks were worked through: for tests.");
    m.def("threads", [] { return pool().threads(); }, "Threads that the kernels run on.");
    m.def(
        "set_threads", [](int threads) { pool().set({.threads = threads}); }, "threads"_a,
        nb::call_guard<nb::gil_scoped_release>(), "Run on this many threads; 0 is one per processor.");
    m.def(
        "own_threads",
        [](int threads, std::vector<int> cpus, int awake_us) {
            own_pool({.threads = threads, .cpus = std::move(cpus), .awake_us = awake_us});
        },
        "threads"_a, "cpus"_a, "awake_us"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Give the calling thread's work threads of its own, which end with it. They are bound to `cpus`, one each and the "
        "calling thread on the first, where there are any; `threads` may be 0: as many as cpus, or as processors. One "
        "without work waits awake for `awake_us` microseconds before it sleeps. ValueError for what cannot be honoured.");
}

}  // namespace russet
