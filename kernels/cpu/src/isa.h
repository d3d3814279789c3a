// Which instruction set the kernels use: found at run time, settable.
//
// Kernels of one instruction set live in files of their own (NAME_avx2.cpp, NAME_avx512.cpp, NAME_neon.cpp and so on),
// which CMake compiles for it. Such a file must include no header whose inline code others use too (no <vector>, no
// <algorithm>): the linker keeps one copy of an inline function, and it could keep the AVX-512 one for everybody.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace russet {

// AmxEmulated is the AMX kernels with tiles in memory: for tests, never chosen unless forced.
enum class Isa { Scalar, Neon, NeonDotprod, NeonI8mm, Avx2, Avx512Vnni, Amx, AmxEmulated };

// What of it this machine has.
struct Features {
    bool avx2 = false;
    bool avx512vnni = false;
    bool amx_int8 = false;  // AMX's tiles and their products of bytes
    bool amx_saved = false; // the system saves the tiles when it switches threads
    int amx_refusal = 0;    // errno with which the system refuses the tiles to this process; 0 where it grants them
    bool dotprod = false;
    bool i8mm = false;
};

// Asks processor and system. On Linux it asks for leave to use AMX's tiles where everything else is there: they make
// every thread's saved state 8 KB larger, so the system may refuse.
Features detect();

// Use what these features allow from now on, and the fastest of it. For tests; at first they are detect()'s.
void assume(const Features& features);

// "scalar", "neon", "neon_dotprod", "neon_i8mm", "avx2", "avx512vnni", "amx" or "amx_emulated".
const char* name(Isa isa);

// Those that this build has kernels for and this machine can run, fastest first; the emulated one, at the end, only
// where asked for.
std::vector<Isa> supported(bool emulated);

// The one in use: the fastest one supported here, unless forced.
Isa active();

// Why AMX is not used although the processor has it; empty where it has none, or where AMX is supported.
std::string amx_refusal();

// Use the named one from now on; "auto" returns to the fastest. Throws std::invalid_argument with the accepted names
// where the name is unknown or not supported here. Not meant to be called while kernels run.
void force(std::string_view name);

// For placement: replicas of one class compute the same bits, e.g. "x86-avx512vnni", "arm64-neon".
std::string isa_class();

}  // namespace russet
