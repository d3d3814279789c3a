// The packed blocks of a slab: where they lie, and how 64 tokens get into one and out again.
#include <stdexcept>
#include <string>
#include <vector>

#include "pool.h"
#include "slab.h"
#include "vector_kernels.h"

namespace russet {

namespace {

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

std::string text(int64_t value) { return std::to_string(value); }

PackedTokens tokens_of(const PackedBlock& block) {
    PackedTokens tokens{block.key_scales(), {}, {}, {}};
    for (int quarter = 0; quarter < 4; ++quarter) {
        tokens.keys[quarter] = reinterpret_cast<uint32_t*>(block.keys(quarter));
        tokens.values[quarter] = reinterpret_cast<uint32_t*>(block.values(quarter));
        tokens.value_scales[quarter] = block.value_scales(quarter);
    }
    return tokens;
}

}  // namespace

PackedBlock KvSlab::block(int page, int layer, int head, int& quarter) const {
    const KvTier& tier = tier_of(page);
    quarter = (page - tier.first_page) % tier.unit_pages * (shape_.page_size / kBlock);
    return {at(tier, page, layer, head), dim_, tier.bits};
}

void KvSlab::unpack_page(int32_t source, int32_t target, int layer, int head) {
    int first = 0;
    const PackedTokens from = tokens_of(block(source, layer, head, first));
    uint16_t *k = keys(target, layer, head), *v = values(target, layer, head);
    for (int slot = 0; slot < shape_.page_size; slot += kBlock) {
        vector_kernels().unpack(from, first + slot / kBlock, shape_.head_dim, dim_, tier_of(source).bits,
                                k + slot * dim_, v + slot * dim_);
    }
}

void KvSlab::pack(std::span<const int32_t> source, int32_t target, int layer, int head) {
    const KvTier &from = tier_of(source[0]), &to = tier_of(target);
    const size_t quarter_values = static_cast<size_t>(kBlock) * dim_;
    HalfTokens halves;
    int first = 0;
    static thread_local std::vector<uint16_t> scratch;
    if (from.bits == 16) {
        const int per_page = shape_.page_size / kBlock;
        for (int quarter = 0; quarter < kQuarters; ++quarter) {
            const int page = source[quarter / per_page];
            const size_t at = quarter % per_page * quarter_values;
            halves.keys[quarter] = keys(page, layer, head) + at;
            halves.values[quarter] = values(page, layer, head) + at;
        }
    } else {
        scratch.resize(2 * kQuarters * quarter_values);
        const PackedTokens packed = tokens_of(block(source[0], layer, head, first));
        for (int quarter = 0; quarter < kQuarters; ++quarter) {
            uint16_t* k = scratch.data() + 2 * quarter * quarter_values;
            vector_kernels().unpack(packed, quarter, shape_.head_dim, dim_, from.bits, k, k + quarter_values);
            halves.keys[quarter] = k, halves.values[quarter] = k + quarter_values;
        }
    }
    const PackedTokens packed = tokens_of(block(target, layer, head, first));
    vector_kernels().pack(halves, shape_.head_dim, dim_, to.bits, packed);
}

void KvSlab::check_demotion(std::span<const int32_t> source, int32_t target) const {
    const KvTier& to = check_unit(target);
    if (to.bits == 16) reject("demote: page " + text(target) + " is half precision; a target is a block of fewer bits");
    for (int32_t page : source) check_page(page, shape_.page_ids());
    const KvTier& from = tier_of(source[0]);
    for (size_t i = 0; i < source.size(); ++i) {
        const bool fits = from.bits == 16 ? is_half(source[i])
                                          : source[i] == source[0] + static_cast<int32_t>(i) &&
                                                (source[0] - from.first_page) % from.unit_pages == 0;
        if (from.bits > to.bits && fits) continue;
        reject("demote: page " + text(source[i]) + " cannot go into block " + text(target) + " of " + to.format +
               "; a block takes " + text(to.unit_pages) +
               " half-precision pages, or all pages, in order, of a block of more bits");
    }
}

void KvSlab::demote(Pool& pool, std::span<const int32_t> source, std::span<const int32_t> target) {
    if (target.empty() && source.empty()) return;
    const size_t pages = shape_.unit_pages();
    if (tiers_.size() == 1) reject("demote: this slab has half-precision pages only");
    if (source.size() != target.size() * pages) {
        reject("demote: " + text(source.size()) + " sources for " + text(target.size()) + " blocks; each takes " +
               text(pages) + " pages");
    }
    for (size_t i = 0; i < target.size(); ++i) check_demotion(source.subspan(i * pages, pages), target[i]);
    // A layer's blocks in order, so that a block may be a source here and a target after that.
    pool.run(shape_.layers, [&](int layer) {
        for (size_t i = 0; i < target.size(); ++i) {
            for (int head = 0; head < shape_.kv_heads; ++head) {
                pack(source.subspan(i * pages, pages), target[i], layer, head);
            }
        }
    });
}

}  // namespace russet
