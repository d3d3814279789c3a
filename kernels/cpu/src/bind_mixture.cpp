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

void check_experts(const ExpertCache& cache, const std::vector<int32_t>& ids) {
    const int experts = static_cast<int>(cache.resident().size());
    for (int32_t id : ids) {
        if (id < 0 || id >= experts) {
            throw std::invalid_argument("expert " + std::to_string(id) + "; accepted: 0 to " +
                                        std::to_string(experts - 1));
        }
    }
}

std::vector<std::tuple<int, bool, int>> told(const std::vector<PageRequest>& requests) {
    std::vector<std::tuple<int, bool, int>> out;
    for (const PageRequest& r : requests) out.emplace_back(r.expert, r.in, static_cast<int>(r.urgency));
    return out;
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
               Matrix shared_gate, std::shared_ptr<ExpertPager> pager, int paged_layer) {
                std::vector<Expert> packed;
                for (const auto& [gate, up, down] : experts) packed.push_back({gate, up, down});
                new (self) MixturePack{router, std::move(packed), shared_gate, std::move(pager), paged_layer};
            },
            "router"_a, "experts"_a, "shared_gate"_a.none(), "pager"_a.none() = nb::none(), "paged_layer"_a = 0);

    nb::class_<ExpertFile>(m, "ExpertFile", "Packed experts in an open file.")
        .def(nb::init<int>(), "descriptor"_a)
        .def(
            "append", [](ExpertFile& file, Matrix gate, Matrix up, Matrix down) { file.append({gate, up, down}); },
            "gate"_a, "up"_a, "down"_a, nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("nbytes", &ExpertFile::nbytes, "Bytes written.")
        .def_prop_ro("largest", &ExpertFile::largest, "Bytes of the largest expert.");

    nb::class_<ExpertPager>(m, "ExpertPager", "The experts of a model's mixtures, read when tokens choose them.")
        .def(
            "__init__",
            [](ExpertPager* self, std::shared_ptr<ExpertFile> file, int layers, int experts, size_t budget_bytes, int least,
               float bonus) {
                new (self) ExpertPager(std::move(file), layers, experts, budget_bytes, least, bonus);
            },
            "file"_a, "layers"_a, "experts"_a, "budget_bytes"_a, "least"_a, "bonus"_a)
        .def(
            "totals",
            [](const ExpertPager& pager) {
                const ExpertPager::Totals t = pager.totals();
                return nb::make_tuple(t.hits, t.misses, t.decisions, t.paged_in, t.paged_out, t.foreseen, t.bytes_in,
                                      t.decision_nanoseconds, t.cached_bytes);
            },
            "kernels.cpu.decoder.ExpertCounts, since the start.");

    nb::class_<ExpertCache>(m, "ExpertCache", "Which experts of a layer are in memory: decisions alone.")
        .def(nb::init<int, size_t, size_t>(), "experts"_a, "expert_bytes"_a, "budget_bytes"_a)
        .def_prop_ro(
            "resident",
            [](const ExpertCache& c) { return std::vector<int>(c.resident().begin(), c.resident().end()); })
        .def_prop_ro(
            "affinity",
            [](const ExpertCache& c) { return std::vector<double>(c.affinity().begin(), c.affinity().end()); })
        .def_prop_ro("cached_bytes", &ExpertCache::cached_bytes)
        .def_prop_ro(
            "counts",
            [](const ExpertCache& c) {
                const ExpertCounts& n = c.counts();
                return nb::make_tuple(n.hits, n.misses, n.decisions, n.paged_in, n.paged_out, n.foreseen);
            },
            "(hits, misses, decisions, paged in, paged out, foreseen)")
        .def(
            "record",
            [](ExpertCache& c, const std::vector<int32_t>& ids) {
                check_experts(c, ids);
                c.record(ids);
            },
            "ids"_a)
        .def(
            "admit",
            [](ExpertCache& c, const std::vector<int32_t>& wanted) {
                check_experts(c, wanted);
                std::vector<PageRequest> requests;
                c.admit(wanted, requests);
                return told(requests);
            },
            "wanted"_a, "[(expert, in, urgency)] in the order to do them; urgency 0 is urgent, 1 normal, 2 prefetch.")
        .def("foresee", [](ExpertCache& c) {
            std::vector<PageRequest> requests;
            c.foresee(requests);
            return told(requests);
        });

    m.def("choose_experts", &choose_into, "logits"_a.noconvert(), "resident"_a.noconvert(), "top_k"_a, "normalize"_a,
          "bonus"_a, "ids"_a.noconvert(), "weights"_a.noconvert(),
          "kernels.routing.choose into ids int32 [T, top_k] and weights float32 [T, top_k].");
    m.def("time_choice", &time_choice, "logits"_a.noconvert(), "resident"_a.noconvert(), "top_k"_a, "bonus"_a,
          "Nanoseconds that the choice of each row of logits took, Python aside.");
}

}  // namespace russet
