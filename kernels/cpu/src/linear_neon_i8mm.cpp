// The kernels for arm64 processors that multiply matrices of bytes (ARMv8.6: Neoverse V1 and N2, Apple M2 and later).
#define RUSSET_DOTPROD 1
#define RUSSET_I8MM 1
#include "linear_neon_body.h"

namespace russet {

const LinearKernels& linear_kernels_neon_i8mm() {
    static constexpr LinearKernels kernels{quantize_row<Neon>, multiply_tiles<Neon>};
    return kernels;
}

}  // namespace russet
