#include "slab.h"

#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "vector_kernels.h"

namespace russet {

namespace {

struct Format {
    const char* name;
    int bits;
};
constexpr Format kPacked[] = {{"q8", 8}, {"q4", 4}, {"q2", 2}};

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

std::string text(int64_t value) { return std::to_string(value); }

size_t half_values(const SlabShape& s) {
    size_t dim = round_up(s.head_dim, KvSlab::kBlock);
    return round_up(s.page_size, KvSlab::kBlock) * dim + s.page_size * dim;
}

KvTier tier_of_format(const char* format, int bits, int first_page, int units, int unit_pages, size_t head_bytes,
                      const SlabShape& s) {
    return {format, bits, first_page, units, unit_pages, head_bytes, head_bytes * s.layers * s.kv_heads};
}

size_t bytes_of(const KvTier& tier) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(tier.unit_bytes, static_cast<size_t>(tier.units), &bytes)) {
        reject("KV slab: " + text(tier.units) + " units of " + text(tier.unit_bytes) +
               " bytes exceed the address space");
    }
    return bytes;
}

// Throws std::invalid_argument for an impossible shape.
std::vector<KvTier> tiers_of(const SlabShape& s) {
    auto check = [](const std::string& name, int value, int least, int most) {
        if (value < least || value > most) {
            reject("KV slab: " + name + " is " + text(value) + "; it must lie in " + text(least) + ".." + text(most));
        }
    };
    check("layers", s.layers, 1, 4096);
    check("kv_heads", s.kv_heads, 1, 4096);
    check("head_dim", s.head_dim, 1, 4096);
    check("page_size", s.page_size, 1, 4096);
    check("pages", s.pages, 1, 1 << 30);
    // Every product of sizes is < 2^51 by the bounds above.
    const int dim = static_cast<int>(round_up(s.head_dim, KvSlab::kBlock));
    std::vector<KvTier> tiers{tier_of_format("f16", 16, 0, s.pages, 1, half_values(s) * sizeof(uint16_t), s)};
    int64_t ids = s.pages;
    for (size_t i = 0; i < s.blocks.size(); ++i) {
        const Format& format = kPacked[i];
        check(std::string(format.name) + " blocks", s.blocks[i], 0, 1 << 28);
        if (s.blocks[i] == 0) continue;
        if (s.page_size != 16 && s.page_size != 32 && s.page_size != 64) {
            reject(std::string("KV slab: ") + format.name + " blocks want pages of 16, 32 or 64 tokens; these have " +
                   text(s.page_size));
        }
        const size_t head_bytes = PackedBlock{nullptr, dim, format.bits}.nbytes();
        const int first = static_cast<int>(ids);
        ids += static_cast<int64_t>(s.blocks[i]) * s.unit_pages();
        if (ids > std::numeric_limits<int32_t>::max()) reject("KV slab: " + text(ids) + " page ids; at most 2^31 - 1");
        tiers.push_back(tier_of_format(format.name, format.bits, first, s.blocks[i], s.unit_pages(), head_bytes, s));
    }
    for (const KvTier& tier : tiers) bytes_of(tier);
    return tiers;
}

}  // namespace

int SlabShape::unit_pages() const { return KvSlab::kUnitTokens / page_size; }

int SlabShape::page_ids() const {
    int ids = pages;
    for (int count : blocks) ids += count * unit_pages();
    return ids;
}

size_t KvSlab::bytes_for(const SlabShape& shape) { return bytes_of(tiers_of(shape)[0]); }

KvSlab::KvSlab(const SlabShape& shape) : shape_(shape), tiers_(tiers_of(shape)) {
    dim_ = static_cast<int>(round_up(shape.head_dim, kBlock));
    key_values_ = round_up(shape.page_size, kBlock) * dim_;
    for (const KvTier& tier : tiers_) memory_.emplace_back(bytes_of(tier));
}

const KvTier& KvSlab::tier_of(int page) const {
    size_t i = tiers_.size() - 1;
    while (page < tiers_[i].first_page) --i;
    return tiers_[i];
}

void KvSlab::write(int page, int layer, int slot, const float* k, const float* v) {
    const VectorKernels& kernels = vector_kernels();
    const int n = shape_.head_dim;
    for (int head = 0; head < shape_.kv_heads; ++head, k += n, v += n) {
        uint16_t* row = values(page, layer, head) + static_cast<size_t>(slot) * dim_;
        uint16_t* column = keys(page, layer, head) + static_cast<size_t>(slot / kBlock) * kBlock * dim_ + slot % kBlock;
        kernels.to_half(k, n, row);  // on the way through the value's place, which is written next
        for (int d = 0; d < n; ++d) column[d * kBlock] = row[d];
        kernels.to_half(v, n, row);
    }
}

void KvSlab::check_page(int32_t page, int pages) const {
    if (page < 0 || page >= pages) {
        const std::string what = pages < shape_.page_ids() ? " has half-precision pages 0.." : " has pages 0..";
        reject("page " + text(page) + " is not in the slab; it" + what + text(pages - 1));
    }
}

const KvTier& KvSlab::check_unit(int32_t unit) const {
    check_page(unit, shape_.page_ids());
    const KvTier& tier = tier_of(unit);
    if (const int past = (unit - tier.first_page) % tier.unit_pages; past != 0) {
        reject("page " + text(unit) + " is inside a block of " + tier.format + ", whose first page is " +
               text(unit - past) + "; a unit is named by its first page");
    }
    return tier;
}

void KvSlab::copy_pages(std::span<const int32_t> source, std::span<const int32_t> target) {
    if (source.size() != target.size()) {
        reject("copy_pages: " + text(source.size()) + " sources but " + text(target.size()) + " targets");
    }
    for (size_t i = 0; i < source.size(); ++i) {
        check_page(source[i], shape_.page_ids());
        check_page(target[i], shape_.pages);
    }
    for (size_t i = 0; i < source.size(); ++i) {
        if (source[i] == target[i]) continue;
        if (is_half(source[i])) {
            memcpy(keys(target[i], 0, 0), keys(source[i], 0, 0), tiers_[0].unit_bytes);
            continue;
        }
        for (int layer = 0; layer < shape_.layers; ++layer) {
            for (int head = 0; head < shape_.kv_heads; ++head) unpack_page(source[i], target[i], layer, head);
        }
    }
}

void KvSlab::move_token(int32_t source, int32_t target, int layer, int head) {
    const int from = source % shape_.page_size, to = target % shape_.page_size;
    const int from_page = source / shape_.page_size, to_page = target / shape_.page_size;
    const auto column = [&](int page, int slot) {
        return keys(page, layer, head) + static_cast<size_t>(slot / kBlock) * kBlock * dim_ + slot % kBlock;
    };
    const uint16_t* k = column(from_page, from);
    uint16_t* into = column(to_page, to);
    for (int d = 0; d < shape_.head_dim; ++d) into[d * kBlock] = k[d * kBlock];
    memmove(values(to_page, layer, head) + static_cast<size_t>(to) * dim_,
            values(from_page, layer, head) + static_cast<size_t>(from) * dim_, sizeof(uint16_t) * shape_.head_dim);
}

void KvSlab::move_tokens(std::span<const int32_t> source, std::span<const int32_t> target) {
    if (source.size() != target.size()) {
        reject("move_tokens: " + text(source.size()) + " sources but " + text(target.size()) + " targets");
    }
    const int64_t slots = static_cast<int64_t>(shape_.pages) * shape_.page_size;
    for (const auto& side : {source, target}) {
        for (int32_t slot : side) {
            if (slot >= 0 && slot < slots) continue;
            reject("slot " + text(slot) + " is not in the slab; its half-precision pages have slots 0.." +
                   text(slots - 1));
        }
    }
    for (int layer = 0; layer < shape_.layers; ++layer) {
        for (int head = 0; head < shape_.kv_heads; ++head) {
            for (size_t i = 0; i < source.size(); ++i) move_token(source[i], target[i], layer, head);
        }
    }
}

void KvSlab::release_units(std::span<const int32_t> units) {
    for (int32_t unit : units) check_unit(unit);
    for (int32_t unit : units) {
        const KvTier& tier = tier_of(unit);
        LazyMemory& memory = memory_[&tier - tiers_.data()];
        memory.release(at(tier, unit, 0, 0) - memory.base(), tier.unit_bytes);
    }
}

uint8_t* KvSlab::check_unit_bytes(int32_t unit, size_t bytes) const {
    const KvTier& tier = check_unit(unit);
    if (bytes != tier.unit_bytes) {
        reject(text(bytes) + " bytes for page " + text(unit) + ": a unit of " + tier.format + " has " +
               text(tier.unit_bytes));
    }
    return at(tier, unit, 0, 0);
}

void KvSlab::read_unit(int32_t unit, std::span<uint8_t> bytes) const {
    memcpy(bytes.data(), check_unit_bytes(unit, bytes.size()), bytes.size());
}

void KvSlab::write_unit(int32_t unit, std::span<const uint8_t> bytes) {
    memcpy(check_unit_bytes(unit, bytes.size()), bytes.data(), bytes.size());
}

}  // namespace russet
