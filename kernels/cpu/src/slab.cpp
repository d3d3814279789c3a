#include "slab.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "vector_kernels.h"

namespace russet {

namespace {

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Maps zeros, at `place` where that is not null, in place of what was mapped there. A step reads everywhere in the
// slab: pages of 2 MB, where the system has them, save it a walk of the page tables for every 4 KB.
void* map_zeros(void* place, size_t bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (place ? MAP_FIXED : 0);
    void* memory = mmap(place, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: refused, it changes only the speed
#endif
    return memory;
}

size_t unit_values(const SlabShape& s) {
    size_t dim = round_up(s.head_dim, KvSlab::kBlock);
    return round_up(s.page_size, KvSlab::kBlock) * dim + s.page_size * dim;
}

}  // namespace

size_t KvSlab::bytes_for(const SlabShape& s) {
    auto check = [](const char* name, int value, int most) {
        if (value < 1 || value > most) {
            throw std::invalid_argument(std::string("KV slab: ") + name + " is " + std::to_string(value) +
                                        "; it must lie in 1.." + std::to_string(most));
        }
    };
    check("layers", s.layers, 4096);
    check("kv_heads", s.kv_heads, 4096);
    check("head_dim", s.head_dim, 4096);
    check("page_size", s.page_size, 4096);
    check("pages", s.pages, 1 << 30);
    size_t page = unit_values(s) * sizeof(uint16_t) * s.layers * s.kv_heads;  // < 2^51 by the bounds above
    size_t bytes = 0;
    if (__builtin_mul_overflow(page, static_cast<size_t>(s.pages), &bytes)) {
        throw std::invalid_argument("KV slab: " + std::to_string(s.pages) + " pages of " + std::to_string(page) +
                                    " bytes exceed the address space");
    }
    return bytes;
}

KvSlab::KvSlab(const SlabShape& shape) : shape_(shape), bytes_(bytes_for(shape)) {
    dim_ = static_cast<int>(round_up(shape.head_dim, kBlock));
    key_values_ = round_up(shape.page_size, kBlock) * dim_;
    unit_values_ = unit_values(shape);
    page_bytes_ = unit_values_ * sizeof(uint16_t) * shape.layers * shape.kv_heads;
    base_ = static_cast<uint16_t*>(map_zeros(nullptr, bytes_));
}

KvSlab::~KvSlab() { munmap(base_, bytes_); }

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

void KvSlab::check_page(int32_t page) const {
    if (page < 0 || page >= shape_.pages) {
        throw std::invalid_argument("page " + std::to_string(page) + " is not in the slab; it has pages 0.." +
                                    std::to_string(shape_.pages - 1));
    }
}

void KvSlab::copy_pages(std::span<const int32_t> source, std::span<const int32_t> target) {
    if (source.size() != target.size()) {
        throw std::invalid_argument("copy_pages: " + std::to_string(source.size()) + " sources but " +
                                    std::to_string(target.size()) + " targets");
    }
    for (size_t i = 0; i < source.size(); ++i) check_page(source[i]), check_page(target[i]);
    for (size_t i = 0; i < source.size(); ++i) {
        if (source[i] != target[i]) memcpy(at(target[i], 0, 0), at(source[i], 0, 0), page_bytes_);
    }
}

void KvSlab::release_pages(std::span<const int32_t> pages) {
    for (int32_t page : pages) check_page(page);
    const uintptr_t system_page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    for (int32_t page : pages) {
        // Only whole system pages can go; what is left at the edges is shared with the neighbours or zeroed by hand.
        uintptr_t begin = reinterpret_cast<uintptr_t>(at(page, 0, 0)), end = begin + page_bytes_;
        uintptr_t first = round_up(begin, system_page), last = end / system_page * system_page;
        if (first >= last) {
            memset(reinterpret_cast<void*>(begin), 0, page_bytes_);
            continue;
        }
        memset(reinterpret_cast<void*>(begin), 0, first - begin);
        memset(reinterpret_cast<void*>(last), 0, end - last);
        // MADV_DONTNEED reads as zeros afterwards on Linux; elsewhere it may not, so the range is mapped anew.
        map_zeros(reinterpret_cast<void*>(first), last - first);
    }
}

}  // namespace russet
