#include "attention_benchmark.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "attention.h"
#include "pool.h"

namespace russet {

double time_attention(const KvSlab& slab, int heads, const float* q, const std::vector<BatchRow>& rows, int rounds) {
    const SlabShape& shape = slab.shape();
    const int stride = heads * shape.head_dim;
    Attention attention(heads, shape, 1.0f);
    std::vector<float> out(static_cast<size_t>(rows.back().first_token + rows.back().tokens) * stride);
    double best = std::numeric_limits<double>::max();
    for (int round = 0; round < rounds; ++round) {
        const auto start = std::chrono::steady_clock::now();
        attention.plan(rows, pool().threads());
        for (int layer = 0; layer < shape.layers; ++layer) {
            attention.run(pool(), slab, layer, q, stride, out.data(), stride);
        }
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

}  // namespace russet
