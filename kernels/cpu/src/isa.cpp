#include "isa.h"

#include <array>
#include <atomic>
#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace russet {
namespace {

constexpr std::array kFastestFirst = {Isa::Avx512Vnni, Isa::Avx2, Isa::NeonDotprod, Isa::Neon, Isa::Scalar};

std::atomic<Isa>& selected() {
    static std::atomic<Isa> isa{best()};
    return isa;
}

std::string supported_names() {
    std::string names = "auto";
    for (Isa isa : kFastestFirst) {
        if (supported(isa)) names += std::string(", ") + name(isa);
    }
    return names;
}

}  // namespace

const char* name(Isa isa) {
    switch (isa) {
        case Isa::Scalar:
            return "scalar";
        case Isa::Neon:
            return "neon";
        case Isa::NeonDotprod:
            return "neon_dotprod";
        case Isa::Avx2:
            return "avx2";
        case Isa::Avx512Vnni:
            return "avx512vnni";
    }
    return "unknown";
}

bool supported(Isa isa) {
    switch (isa) {
        case Isa::Scalar:
            return true;
#if defined(__x86_64__)
        // These builtins ask the system too: a processor whose AVX state is not saved counts as one without AVX.
        case Isa::Avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                          __builtin_cpu_supports("bmi2");
        case Isa::Avx512Vnni:
            return supported(Isa::Avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
        case Isa::Neon:
            return true;
        case Isa::NeonDotprod:
#if defined(__linux__)
            return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
            return true;  // every Apple Silicon
#endif
#endif
        default:
            return false;
    }
}

Isa best() {
    for (Isa isa : kFastestFirst) {
        if (supported(isa)) return isa;
    }
    return Isa::Scalar;
}

Isa active() { return selected().load(std::memory_order_relaxed); }

void force(std::string_view wanted) {
    if (wanted == "auto") {
        selected() = best();
        return;
    }
    for (Isa isa : kFastestFirst) {
        if (wanted == name(isa) && supported(isa)) {
            selected() = isa;
            return;
        }
    }
    throw std::invalid_argument("instruction set \"" + std::string(wanted) + "\" is not available here; accepted: " +
                                                            supported_names());
}

std::string isa_class() {
#if defined(__x86_64__)
    return std::string("x86-") + name(active());
#elif defined(__aarch64__)
    // Dot-product instructions give the same integers sooner.
    return std::string("arm64-") + (active() == Isa::NeonDotprod ? name(Isa::Neon) : name(active()));
#else
    return std::string("cpu-") + name(active());
#endif
}

}  // namespace russet
