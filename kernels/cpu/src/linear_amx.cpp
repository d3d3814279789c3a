// The kernels for AMX: products on the processor's tiles.
//
// The instructions are written out because GCC 12's intrinsics do not say which memory they read: it then drops or
// moves the stores that fill the configuration and the unpacked weights.
#include "linear_amx_body.h"

namespace russet {
namespace {

struct ProcessorTiles {
    static inline void configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }
    static inline void release() { __asm__ volatile("tilerelease"); }
    template <int tile>
    static inline void zero() {
        __asm__ volatile("tilezero %%tmm%c0" : : "i"(tile));
    }
    template <int tile>
    static inline void load(const void* rows, ptrdiff_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(tile) : "memory");
    }
    template <int tile>
    static inline void store(void* rows, ptrdiff_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(stride), "i"(tile) : "memory");
    }
    template <int products, int inputs, int weights>
    static inline void multiply() {
        __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(products), "i"(inputs), "i"(weights));
    }
};

}  // namespace

const LinearKernels& linear_kernels_amx() {
    static const LinearKernels kernels{linear_kernels_avx512().quantize, multiply_amx<ProcessorTiles>};
    return kernels;
}

}  // namespace russet
