// How a row of activations is quantized: shared by the instruction sets, each of which brings the work on one group.
// Everything here is of internal linkage, see isa.h.
//
// An instruction set is a struct with
//     largest(x)                      the largest magnitude of 32 floats; infinity or NaN where one of them is
//     round<fine>(x, inverse, values) x * inverse rounded to integers, to the nearest and ties to even, times 128 unless
//                                     fine; written to `values` in the set's layout; gives their sum
#pragma once

#include "linear_kernels.h"

namespace russet {
namespace {

constexpr float kTiny = 1e-30f;

template <class Set>
void quantize_row(const float* x, int k, Rounding rounding, ActivationGroup* out) {
    const int groups = k / kGroup;
    float total = 0.0f;
    for (int group = 0; group < groups; ++group) {
        const float most = Set::largest(x + group * kGroup);
        out[group].scale = most;
        if (most < __builtin_inff()) total += most;
    }
    const float coarse_up_to = rounding == Rounding::Fine ? -1.0f : total * (kCoarseUpTo / static_cast<float>(groups));
    for (int group = 0; group < groups; ++group, x += kGroup, ++out) {
        const float most = out->scale;
        if (most >= kTiny && most < __builtin_inff()) {
            out->fine = most > coarse_up_to;
            out->sum = out->fine ? Set::template round<true>(x, kLargest / most, out->values)
                                 : Set::template round<false>(x, kLargestCoarse / most, out->values);
            out->scale = most / kLargest;
            out->scaled_sum = out->scale * static_cast<float>(out->sum);
        } else {
            __builtin_memset(out, 0, sizeof(*out));
            if (!(most < kTiny)) out->scale = out->scaled_sum = __builtin_nanf("");
        }
    }
}

}  // namespace
}  // namespace russet
