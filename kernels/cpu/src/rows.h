// Phases over rows on the pool.
#pragma once

#include <algorithm>

#include "pool.h"

namespace russet {

// A phase over rows is cut into chunks of about this many floats: less would cost more to hand out than to compute.
constexpr int kChunkFloats = 6144;

// Calls work(row0, row1) over chunks of rows, on the pool where there is more than one chunk.
template <typename Work>
void for_rows(Pool& pool, int rows, int width, Work work) {
    const int step = std::max(1, kChunkFloats / std::max(1, width));
    const int chunks = (rows + step - 1) / step;
    if (chunks <= 1) {
        if (rows > 0) work(0, rows);
        return;
    }
    pool.run(chunks, [&](int chunk) { work(chunk * step, std::min(rows, (chunk + 1) * step)); });
}

}  // namespace russet
