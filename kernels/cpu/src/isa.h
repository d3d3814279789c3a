// Which instruction set the kernels use: found at run time, settable for tests.
//
// Kernels of one instruction set live in a file of their own (NAME_avx2.cpp, NAME_avx512.cpp, NAME_neon.cpp,
// NAME_neon_dotprod.cpp), which CMake compiles for it. Such a file must include no header whose inline code others use too (no <vector>, no
// <algorithm>): the linker keeps one copy of an inline function, and it could keep the AVX-512 one for everybody.
#pragma once

#include <string>
#include <string_view>

namespace russet {

enum class Isa { Scalar, Neon, NeonDotprod, Avx2, Avx512Vnni };

// "scalar", "neon", "neon_dotprod", "avx2" or "avx512vnni".
const char* name(Isa isa);

// Whether this build has kernels for it and this processor (and system) can run them.
bool supported(Isa isa);

// The fastest one supported here.
Isa best();

// The one in use: best(), unless forced.
Isa active();

// Use the named one from now on; "auto" returns to best(). Throws std::invalid_argument with the accepted names where
// the name is unknown or not supported here. Not meant to be called while kernels run.
void force(std::string_view name);

// For placement: replicas of one class compute the same bits, e.g. "x86-avx512vnni", "arm64-neon".
std::string isa_class();

}  // namespace russet
