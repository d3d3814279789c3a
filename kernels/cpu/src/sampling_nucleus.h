// Top-p without sorting: the least weight of a nucleus, found among the few weights near it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace russet {

// A thread uses one for row after row.
struct NucleusScratch {
    std::vector<int32_t> weights, ids;
    std::vector<int64_t> buckets;
    std::vector<uint64_t> keys;
};

// The nucleus of `weights` [n] are the fewest of the largest, the lower id first among equals, that sum to `wanted`: 1 to
// the sum of all. `sums` are those of blocks of kSumBlock. Returns the least weight in it; its equals outside become 0.
int32_t cut_to_nucleus(std::span<int32_t> weights, std::span<const int64_t> sums, int64_t wanted,
                       NucleusScratch& scratch);

}  // namespace russet
