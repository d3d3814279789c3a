// What the linear layers cost without MLX's graph around them, and what memory allows. For tests/benchmarks.
#pragma once

#include <memory>
#include <span>

#include "linear.h"

namespace russet {

// Bytes per second at which the pool's threads together read `size` bytes of memory; the best of three passes.
double read_bandwidth(size_t size);

// The least seconds, over `rounds`, of multiplying `rows` rows of x by each of the weights in turn, the quantization of
// the activations included.
double time_linear(std::span<const std::shared_ptr<const PackedMatrix>> weights, const float* x, int rows, int rounds);

}  // namespace russet
