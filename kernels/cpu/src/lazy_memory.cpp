#include "lazy_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <utility>

namespace russet {

namespace {

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

}  // namespace

LazyMemory::LazyMemory(size_t bytes) : bytes_(bytes) {
    if (bytes > 0) base_ = static_cast<uint8_t*>(map_zeros(nullptr, bytes));
}

LazyMemory::~LazyMemory() {
    if (base_) munmap(base_, bytes_);
}

LazyMemory::LazyMemory(LazyMemory&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

void LazyMemory::release(size_t begin, size_t bytes) {
    const size_t system_page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), end = begin + bytes;
    // Only whole system pages can go. The mapping begins at one.
    const size_t first = (begin + system_page - 1) / system_page * system_page, last = end / system_page * system_page;
    if (first >= last) {
        memset(base_ + begin, 0, bytes);
        return;
    }
    memset(base_ + begin, 0, first - begin);
    memset(base_ + last, 0, end - last);
    // MADV_DONTNEED reads as zeros afterwards on Linux; elsewhere it may not, so the range is mapped anew.
    map_zeros(base_ + first, last - first);
}

}  // namespace russet
