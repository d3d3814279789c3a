#include "vector_kernels.h"

#include "isa.h"

namespace russet {

const VectorKernels& vector_kernels() {
    switch (active()) {
#if defined(__x86_64__)
        case Isa::Amx:
        case Isa::AmxEmulated:
        case Isa::Avx512Vnni: return kAvx512Kernels;
        case Isa::Avx2: return kAvx2Kernels;
#elif defined(__aarch64__)
        case Isa::Neon:
        case Isa::NeonDotprod:
        case Isa::NeonI8mm: return kNeonKernels;
#endif
        default: return kScalarKernels;
    }
}

}  // namespace russet
