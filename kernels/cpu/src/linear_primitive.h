// The product with packed weights as a node of MLX's lazy graph.
#pragma once

#include <memory>

#include "linear.h"
#include "mlx/mlx.h"

namespace russet {

// x [.., K], any float type -> float32 [.., N]. Its gradient with respect to x is linear_transposed of the cotangent:
// that of the dequantized weights, the rounding of the activations to int8 passed straight through.
// Throws std::invalid_argument where the last dimension is not K.
mlx::core::array linear(const mlx::core::array& x, std::shared_ptr<const PackedMatrix> w, Rounding rounding);

// y [.., N], any float type -> float32 [.., K]: y times the dequantized weights, in float32.
mlx::core::array linear_transposed(const mlx::core::array& y, std::shared_ptr<const PackedMatrix> w);

}  // namespace russet
