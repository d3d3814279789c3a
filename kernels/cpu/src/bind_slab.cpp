// Python's view of a KV slab: kernels/decoder.py's Kv. Calls that move much release the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "pool.h"
#include "slab.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace russet {

namespace {

using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstBytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::span<const int32_t> span(const Ids& ids) { return {ids.data(), ids.shape(0)}; }

nb::tuple tiers(const KvSlab& slab) {
    const nb::object make = nb::module_::import_("kernels.decoder").attr("KvTier");
    nb::list all;
    for (const KvTier& t : slab.tiers()) all.append(make(t.format, t.first_page, t.units, t.unit_pages, t.unit_bytes));
    return nb::tuple(all);
}

}  // namespace

void bind_slab(nb::module_& m) {
    nb::class_<KvSlab>(m, "KvSlab", "Keys and values of all layers, in memory of their own (kernels/decoder.py: Kv).")
        .def_prop_ro("pages", [](const KvSlab& s) { return s.shape().pages; }, "Half-precision pages it holds.")
        .def_prop_ro("page_size", [](const KvSlab& s) { return s.shape().page_size; }, "Tokens per page.")
        .def_prop_ro("nbytes", &KvSlab::nbytes, "Bytes mapped for those pages; one never written takes none of them.")
        .def_prop_ro("tiers", &tiers, "Its kernels.decoder.KvTiers, half precision first.")
        .def(
            "copy_pages",
            [](KvSlab& s, const Ids& source, const Ids& target) {
                nb::gil_scoped_release released;
                s.copy_pages(span(source), span(target));
            },
            "source"_a.noconvert(), "target"_a.noconvert(),
            "Copy page source[i] to target[i], all layers, in order. Packed sources are unpacked.")
        .def(
            "move_tokens",
            [](KvSlab& s, const Ids& source, const Ids& target) {
                nb::gil_scoped_release released;
                s.move_tokens(span(source), span(target));
            },
            "source"_a.noconvert(), "target"_a.noconvert(),
            "Copy K and V of the token in slot source[i] (page * page_size + place) to target[i], all layers, in order.")
        .def(
            "demote",
            [](KvSlab& s, const Ids& source, const Ids& target) {
                nb::gil_scoped_release released;
                s.demote(pool(), span(source), span(target));
            },
            "source"_a.noconvert(), "target"_a.noconvert(),
            "Pack the tokens of the next unit_pages ids of source into the block target[i], in order.")
        .def(
            "release_units",
            [](KvSlab& s, const Ids& units) {
                nb::gil_scoped_release released;
                s.release_units(span(units));
            },
            "units"_a.noconvert(), "Give the memory of units back to the system; they read as zeros afterwards.")
        .def(
            "read_unit",
            [](const KvSlab& s, int unit, const Bytes& into) {
                nb::gil_scoped_release released;
                s.read_unit(unit, {into.data(), into.shape(0)});
            },
            "unit"_a, "into"_a.noconvert(), "Copy a unit's bytes into a buffer of unit_bytes.")
        .def(
            "write_unit",
            [](KvSlab& s, int unit, const ConstBytes& data) {
                nb::gil_scoped_release released;
                s.write_unit(unit, {data.data(), data.shape(0)});
            },
            "unit"_a, "data"_a.noconvert(), "Overwrite a unit's bytes.");
}

}  // namespace russet
