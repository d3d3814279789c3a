// Memory that is mapped, not allocated: what was never touched costs nothing (the system may count in pieces of 2 MB).
#pragma once

#include <cstddef>
#include <cstdint>

namespace russet {

class LazyMemory {
  public:
    // Zeros. Throws std::bad_alloc where the address space cannot be had; 0 bytes map nothing.
    explicit LazyMemory(size_t bytes);
    ~LazyMemory();
    LazyMemory(LazyMemory&& other) noexcept;
    LazyMemory& operator=(LazyMemory&&) = delete;

    uint8_t* base() const { return base_; }
    // Gives the bytes [begin, begin + bytes) back to the system; they read as zeros until written again. What shares a
    // page of the system's with its neighbours is zeroed by hand, and theirs is not touched.
    void release(size_t begin, size_t bytes);

  private:
    uint8_t* base_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace russet
