// Python's view of mixtures of experts: their weights, and the choice of experts on its own.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "mixture.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace russet {

namespace {

template <typename T, int kDims>
using Array = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
using Logits = Array<const float, 2>;
using Resident = Array<const uint8_t, 1>;

void check_choice(const Logits& logits, const Resident& resident, int top_k, float bonus) {
    const int experts = static_cast<int>(logits.shape(1)), most = std::min(experts, kMostChosen);
    if (top_k < 1 || top_k > most) {
        throw std::invalid_argument("top_k is " + std::to_string(top_k) + "; accepted: 1 to " + std::to_string(most));
    }
    if (static_cast<int>(resident.shape(0)) != experts) {
        throw std::invalid_argument("resident has " + std::to_string(resident.shape(0)) + " entries for " +
                                    std::to_string(experts) + " experts");
    }
    if (!(bonus >= 0.0f && bonus <= 1.0f)) {
        throw std::invalid_argument("bonus is " + std::to_string(bonus) + "; accepted: 0 to 1");
    }
}

void choose_into(const Logits& logits, const Resident& resident, int top_k, bool normalize, float bonus,
                 const Array<int32_t, 2>& ids, const Array<float, 2>& weights) {
    check_choice(logits, resident, top_k, bonus);
    const size_t rows = logits.shape(0), experts = logits.shape(1), chosen = top_k;
    if (ids.shape(0) != rows || ids.shape(1) != chosen || weights.shape(0) != rows || weights.shape(1) != chosen) {
        throw std::invalid_argument("ids and weights must be [" + std::to_string(rows) + ", " + std::to_string(top_k) + "]");
    }
    const Routing routing{top_k, normalize, bonus};
    for (size_t row = 0; row < rows; ++row) {
        const bool finite = choose_experts({logits.data() + row * experts, experts}, {resident.data(), experts}, routing,
                                           ids.data() + row * chosen, weights.data() + row * chosen);
        if (!finite) throw std::invalid_argument("router logits of row " + std::to_string(row) + " are not finite");
    }
}

// Nanoseconds of each row's choice, without Python.
std::vector<double> time_choice(const Logits& logits, const Resident& resident, int top_k, float bonus) {
    check_choice(logits, resident, top_k, bonus);
    const Routing routing{top_k, true, bonus};
    std::vector<int32_t> ids(top_k);
    std::vector<float> weights(top_k);
    std::vector<double> times;
    for (size_t row = 0; row < logits.shape(0); ++row) {
        const auto begin = std::chrono::steady_clock::now();
        choose_experts({logits.data() + row * logits.shape(1), logits.shape(1)}, {resident.data(), resident.shape(0)},
                       routing, ids.data(), weights.data());
        times.push_back(std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count());
    }
    return times;
}

}  // namespace

void bind_mixture(nb::module_& m) {
    nb::class_<MixtureShape>(m, "MixtureShape", "kernels.decoder.MixtureSpec; zeros where there is none.")
        .def(
            "__init__",
            [](MixtureShape* self, int experts, int top_k, int intermediate, int shared_intermediate, bool normalize) {
                new (self) MixtureShape{experts, top_k, intermediate, shared_intermediate, normalize};
            },
            "experts"_a = 0, "top_k"_a = 0, "intermediate"_a = 0, "shared_intermediate"_a = 0, "normalize"_a = false);

    nb::class_<MixturePack>(m, "MixturePack", "One layer's router, packed experts and shared gate.")
        .def(
            "__init__",
            [](MixturePack* self, Matrix router, const std::vector<std::tuple<Matrix, Matrix, Matrix>>& experts,
               Matrix shared_gate) {
                std::vector<Expert> packed;
                for (const auto& [gate, up, down] : experts) packed.push_back({gate, up, down});
                new (self) MixturePack{router, std::move(packed), shared_gate};
            },
            "router"_a, "experts"_a, "shared_gate"_a.none());

    m.def("choose_experts", &choose_into, "logits"_a.noconvert(), "resident"_a.noconvert(), "top_k"_a, "normalize"_a,
          "bonus"_a, "ids"_a.noconvert(), "weights"_a.noconvert(),
          "kernels.routing.choose into ids int32 [T, top_k] and weights float32 [T, top_k].");
    m.def("time_choice", &time_choice, "logits"_a.noconvert(), "resident"_a.noconvert(), "top_k"_a, "bonus"_a,
          "Nanoseconds that the choice of each row of logits took, Python aside.");
}

}  // namespace russet
