#include "linear_benchmark.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <vector>

#include "pool.h"

namespace russet {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

double read_bandwidth(size_t size) {
    AlignedBytes bytes(size);
    std::memset(bytes.data(), 1, size);
    constexpr size_t kChunk = 1 << 20;
    const uint64_t* words = reinterpret_cast<const uint64_t*>(bytes.data());
    std::atomic<uint64_t> sink{0};
    double best = std::numeric_limits<double>::max();
    for (int pass = 0; pass < 3; ++pass) {
        double start = now();
        pool().run(static_cast<int>(size / kChunk), [&](int chunk) {
            const uint64_t* from = words + chunk * (kChunk / 8);
            uint64_t sums[8] = {};
            for (size_t i = 0; i < kChunk / 8; i += 8) {
                for (int j = 0; j < 8; ++j) sums[j] += from[i + j];
            }
            uint64_t sum = 0;
            for (uint64_t part : sums) sum += part;
            sink.fetch_add(sum, std::memory_order_relaxed);
        });
        best = std::min(best, now() - start);
    }
    return static_cast<double>(size / kChunk * kChunk) / best;
}

double time_linear(std::span<const std::shared_ptr<const PackedMatrix>> weights, const float* x, int rows, int rounds) {
    Activations scratch;
    std::vector<float> y;
    double best = std::numeric_limits<double>::max();
    for (int round = 0; round < rounds; ++round) {
        double start = now();
        for (const auto& w : weights) {
            y.resize(static_cast<size_t>(rows) * w->n());
            linear(pool(), *w, Rounding::Mixed, scratch, x, rows, y.data());
        }
        best = std::min(best, now() - start);
    }
    return best;
}

}  // namespace russet
