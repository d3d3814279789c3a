// What attention costs without the rest of a layer. For tests/benchmarks.
#pragma once

#include <vector>

#include "batch.h"
#include "slab.h"

namespace russet {

// The least seconds, over `rounds`, of attending with q [tokens][heads][head_dim] in every layer of the slab in turn,
// as a forward does; the plan is made anew each round. The rows' keys must be written already.
double time_attention(const KvSlab& slab, int heads, const float* q, const std::vector<BatchRow>& rows, int rounds);

}  // namespace russet
