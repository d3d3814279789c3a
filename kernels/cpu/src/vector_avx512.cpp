// The vector kernels for AVX-512 (CMake compiles this file for it).
#include "vector_kernels.h"

#include <math.h>
#include <string.h>
#include <immintrin.h>

#define RUSSET_LANES 16

namespace russet {
namespace {
#include "lanes.h"
// clang-format off: the bodies build on the lanes
#include "elementwise_body.h"
#include "packing_body.h"
#include "attention_body.h"
#include "encoder_body.h"
#include "sampling_body.h"
// clang-format on
}  // namespace

const VectorKernels kAvx512Kernels = {rms_norm,    add,        silu_gate, gelu_gate, rope,  to_half, attend_tile, merge_tile,
                                    pack_tokens, unpack_tokens, peaks,     weigh,     sum_from, split,
                                    layer_norm, bias_gelu, attend_text, mask};

}  // namespace russet
