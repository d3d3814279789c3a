// The kernels for arm64 processors with dot-product instructions (ARMv8.2: all Apple Silicon, Neoverse N1 and later).
#define RUSSET_DOTPROD 1
#define RUSSET_I8MM 0
#include "linear_neon_body.h"

namespace russet {

const LinearKernels& linear_kernels_neon_dotprod() {
    static constexpr LinearKernels kernels{quantize_row<Neon>, multiply_tiles<Neon>};
    return kernels;
}

}  // namespace russet
