// The physical KV of one model: pages of half-precision keys and values for every layer, and blocks of packed ones, in
// memory of its own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lazy_memory.h"

namespace russet {

class Pool;

struct SlabShape {
    int layers, kv_heads, head_dim, pages, page_size;
    std::array<int, 3> blocks{};  // of 8, 4 and 2 bits

    int unit_pages() const;  // page ids of a block
    int page_ids() const;    // of all tiers: 0 .. page_ids - 1
};

// A form in which keys and values are held: half-precision pages, or blocks of 64 tokens packed in 8, 4 or 2 bits. A
// unit of it is given and taken as a whole; a block stands in page tables as 64 / page_size neighbouring ids.
struct KvTier {
    const char* format;
    int bits;
    int first_page, units, unit_pages;
    size_t head_bytes, unit_bytes;  // of one layer and kv head; of all
};

// A block, for one layer and kv head:
//
//     key_scales    [dim] scales, [dim] zeros: halves; a key is scale * code + zero, by channel over the 64 tokens
//     4 quarters    of 16 tokens each:
//         keys          codes [dim] vectors of the 16 tokens
//         values        codes [dim / 16][16 tokens] vectors of 16 dims
//         value_scales  [16] scales, [16] zeros: halves, by token
//
// Vectors of 16 codes of b bits are packed in lines of 64 bytes: vector v lies in line v * b / 32, in each of its 16
// words at bit v * b % 32. So a vector is unpacked by a shift and a mask, and every part begins at a line.
struct PackedBlock {
    uint8_t* base;
    int dim, bits;

    // Where the codes of 16 x dim values take so many bytes.
    size_t code_bytes() const { return static_cast<size_t>(2) * dim * bits; }
    size_t quarter_bytes() const { return 2 * code_bytes() + 64; }
    size_t nbytes() const { return static_cast<size_t>(4) * dim + 4 * quarter_bytes(); }
    uint16_t* key_scales() const { return reinterpret_cast<uint16_t*>(base); }
    uint8_t* keys(int quarter) const { return base + 4 * dim + quarter * quarter_bytes(); }
    uint8_t* values(int quarter) const { return keys(quarter) + code_bytes(); }
    uint16_t* value_scales(int quarter) const { return reinterpret_cast<uint16_t*>(values(quarter) + code_bytes()); }
};

// Keys and values of one (page, layer, kv head), laid out for attention:
//
//     keys    [block][dim][16]   16 neighbouring slots side by side: one vector load serves 16 dot products
//     values  [slot][dim]        one slot's dims side by side: one vector load serves 16 output dims
//
// dims are padded to a multiple of 16 with zeros, and slots to whole blocks of 16. Units are outermost, so that copying
// or releasing one is one contiguous range. Each tier has a range of addresses of its own, mapped lazily; nothing else
// ever aliases it.
class KvSlab {
  public:
    static constexpr int kBlock = 16;
    static constexpr int kUnitTokens = 64;  // of a packed block

    // Throws std::bad_alloc where the address space cannot be had, std::invalid_argument for an impossible shape.
    explicit KvSlab(const SlabShape& shape);
    KvSlab(const KvSlab&) = delete;
    KvSlab& operator=(const KvSlab&) = delete;

    const SlabShape& shape() const { return shape_; }
    // Those that have units; half precision first.
    const std::vector<KvTier>& tiers() const { return tiers_; }
    // Bytes of the half-precision pages.
    size_t nbytes() const { return tiers_[0].units * tiers_[0].unit_bytes; }
    // What nbytes of a slab of this shape is; throws std::invalid_argument for an impossible shape.
    static size_t bytes_for(const SlabShape& shape);

    int padded_dim() const { return dim_; }
    bool is_half(int page) const { return page < shape_.pages; }
    uint16_t* keys(int page, int layer, int head) const {
        return reinterpret_cast<uint16_t*>(at(tiers_[0], page, layer, head));
    }
    uint16_t* values(int page, int layer, int head) const { return keys(page, layer, head) + key_values_; }
    // Of a page that is not half precision: its block, and which of the block's quarters it begins at.
    PackedBlock block(int page, int layer, int head, int& quarter) const;

    // Rounds one token's keys and values, each [kv_heads][head_dim], into its slot of a half-precision page.
    void write(int page, int layer, int slot, const float* keys, const float* values);

    // What follows throws std::invalid_argument naming the offending value, before anything is changed.

    // Copies page source[i] to target[i], all layers, in order. Targets are half precision; sources may be packed.
    void copy_pages(std::span<const int32_t> source, std::span<const int32_t> target);
    // Copies the keys and values of single tokens, all layers, in order. Slots are page * page_size + place in the page,
    // of half-precision pages.
    void move_tokens(std::span<const int32_t> source, std::span<const int32_t> target);
    // Packs the 64 tokens of the next unit_pages ids of source into the block target[i], in order: half-precision
    // pages, or all the pages of a block of more bits.
    void demote(Pool& pool, std::span<const int32_t> source, std::span<const int32_t> target);
    // Gives the memory of units back to the system; they read as zeros until written again.
    void release_units(std::span<const int32_t> units);
    // A unit's bytes, which `bytes` must be as long as.
    void read_unit(int32_t unit, std::span<uint8_t> bytes) const;
    void write_unit(int32_t unit, std::span<const uint8_t> bytes);

  private:
    uint8_t* at(const KvTier& tier, int page, int layer, int head) const {
        const size_t unit = static_cast<size_t>(page - tier.first_page) / tier.unit_pages;
        return memory_[&tier - tiers_.data()].base() +
               ((unit * shape_.layers + layer) * shape_.kv_heads + head) * tier.head_bytes;
    }
    const KvTier& tier_of(int page) const;
    void move_token(int32_t source, int32_t target, int layer, int head);
    void check_page(int32_t page, int pages) const;
    const KvTier& check_unit(int32_t unit) const;
    uint8_t* check_unit_bytes(int32_t unit, size_t bytes) const;
    void check_demotion(std::span<const int32_t> source, int32_t target) const;
    void unpack_page(int32_t source, int32_t target, int layer, int head);
    void pack(std::span<const int32_t> source, int32_t target, int layer, int head);

    SlabShape shape_;
    int dim_;
    size_t key_values_;
    std::vector<KvTier> tiers_;
    std::vector<LazyMemory> memory_;  // parallel to tiers_
};

}  // namespace russet
