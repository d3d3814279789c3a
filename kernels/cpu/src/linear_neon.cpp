// The kernels for arm64 processors without dot-product instructions.
#define RUSSET_DOTPROD 0
#define RUSSET_I8MM 0
#include "linear_neon_body.h"

namespace russet {

const LinearKernels& linear_kernels_neon() {
    static constexpr LinearKernels kernels{quantize_row<Neon>, multiply_tiles<Neon>};
    return kernels;
}

}  // namespace russet
