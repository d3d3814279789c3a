// The physical KV of one model: pages of half-precision keys and values for every layer, in memory of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace russet {

struct SlabShape {
    int layers, kv_heads, head_dim, pages, page_size;
};

// Keys and values of one (page, layer, kv head), laid out for attention:
//
//     keys    [block][dim][16]   16 neighbouring slots side by side: one vector load serves 16 dot products
//     values  [slot][dim]        one slot's dims side by side: one vector load serves 16 output dims
//
// dims are padded to a multiple of 16 with zeros, and slots to whole blocks of 16. Pages are outermost, so that
// copying or releasing a page is one contiguous range.
//
// The memory is mapped, not allocated: what was never touched costs nothing (the system may count in pieces of 2 MB),
// and all of it returns to the system at the end.
// Nothing else ever aliases it.
class KvSlab {
  public:
    static constexpr int kBlock = 16;

    // Throws std::bad_alloc where the address space cannot be had, std::invalid_argument for an impossible shape.
    explicit KvSlab(const SlabShape& shape);
    ~KvSlab();
    KvSlab(const KvSlab&) = delete;
    KvSlab& operator=(const KvSlab&) = delete;

    const SlabShape& shape() const { return shape_; }
    size_t nbytes() const { return bytes_; }
    // Bytes that a slab of this shape takes; throws std::invalid_argument for an impossible shape.
    static size_t bytes_for(const SlabShape& shape);

    int padded_dim() const { return dim_; }
    uint16_t* keys(int page, int layer, int head) const { return at(page, layer, head); }
    uint16_t* values(int page, int layer, int head) const { return at(page, layer, head) + key_values_; }

    // Rounds one token's keys and values, each [kv_heads][head_dim], into its slot.
    void write(int page, int layer, int slot, const float* keys, const float* values);

    // Copies page source[i] to target[i], all layers, in order. Throws std::invalid_argument naming a page out of
    // range, before anything is copied.
    void copy_pages(std::span<const int32_t> source, std::span<const int32_t> target);
    // Gives the memory of these pages back to the system; they read as zeros until written again.
    void release_pages(std::span<const int32_t> pages);

  private:
    uint16_t* at(int page, int layer, int head) const {
        size_t unit = (static_cast<size_t>(page) * shape_.layers + layer) * shape_.kv_heads + head;
        return base_ + unit * unit_values_;
    }
    void check_page(int32_t page) const;

    SlabShape shape_;
    int dim_;
    size_t key_values_, unit_values_, page_bytes_, bytes_;
    uint16_t* base_ = nullptr;
};

}  // namespace russet
