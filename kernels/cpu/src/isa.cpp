#include "isa.h"

#include <atomic>
#include <cerrno>
#include <stdexcept>
#include <system_error>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace russet {
namespace {

constexpr Isa kFastestFirst[] = {Isa::Amx,         Isa::Avx512Vnni, Isa::Avx2,   Isa::NeonI8mm,
                                 Isa::NeonDotprod, Isa::Neon,       Isa::Scalar, Isa::AmxEmulated};

struct State {
    Features features;
    std::atomic<Isa> active;
};

bool supports(const Features& has, Isa isa) {
    switch (isa) {
        case Isa::Scalar:
            return true;
#if defined(__x86_64__)
        case Isa::Avx2:
            return has.avx2;
        case Isa::Avx512Vnni:
        case Isa::AmxEmulated:
            return has.avx512vnni;
        case Isa::Amx:
            return RUSSET_AMX && has.avx512vnni && has.amx_int8 && has.amx_saved && has.amx_refusal == 0;
#elif defined(__aarch64__)
        case Isa::Neon:
            return true;
        case Isa::NeonDotprod:
            return has.dotprod;
        case Isa::NeonI8mm:
            return has.dotprod && has.i8mm;
#endif
        default:
            return false;
    }
}

Isa fastest(const Features& features) {
    for (Isa isa : kFastestFirst) {
        if (supports(features, isa)) return isa;
    }
    return Isa::Scalar;
}

State& state() {
    static State state = [] {
        const Features features = detect();
        return State{features, fastest(features)};
    }();
    return state;
}

#if defined(__x86_64__)
void detect_amx(Features& has) {
    unsigned a, b, c, d;
    constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25, kOsXsave = 1u << 27;
    has.amx_int8 = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTile) && (d & kInt8);
    if (!has.amx_int8 || !__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return;
    constexpr unsigned kTileStates = 3u << 17;  // the tiles and their shapes
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    has.amx_saved = (a & kTileStates) == kTileStates;
    if (!has.amx_saved) return;
#if defined(__linux__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) has.amx_refusal = errno;
#endif
}
#elif defined(__aarch64__) && defined(__APPLE__)
bool has_feature(const char* name) {
    int value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

}  // namespace

Features detect() {
    Features has;
#if defined(__x86_64__)
    // These builtins ask the system too: a processor whose AVX state is not saved counts as one without AVX.
    has.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
               __builtin_cpu_supports("bmi2");
    has.avx512vnni = has.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512vnni");
    detect_amx(has);
#elif defined(__aarch64__) && defined(__linux__)
    has.dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    has.i8mm = (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#elif defined(__aarch64__) && defined(__APPLE__)
    has.dotprod = true;  // every Apple Silicon
    has.i8mm = has_feature("hw.optional.arm.FEAT_I8MM");
#endif
    return has;
}

void assume(const Features& features) {
    state().features = features;
    state().active = fastest(features);
}

const char* name(Isa isa) {
    switch (isa) {
        case Isa::Scalar:
            return "scalar";
        case Isa::Neon:
            return "neon";
        case Isa::NeonDotprod:
            return "neon_dotprod";
        case Isa::NeonI8mm:
            return "neon_i8mm";
        case Isa::Avx2:
            return "avx2";
        case Isa::Avx512Vnni:
            return "avx512vnni";
        case Isa::Amx:
            return "amx";
        case Isa::AmxEmulated:
            return "amx_emulated";
    }
    return "unknown";
}

std::vector<Isa> supported(bool emulated) {
    std::vector<Isa> all;
    for (Isa isa : kFastestFirst) {
        if (supports(state().features, isa) && (emulated || isa != Isa::AmxEmulated)) all.push_back(isa);
    }
    return all;
}

Isa active() { return state().active.load(std::memory_order_relaxed); }

std::string amx_refusal() {
    const Features& has = state().features;
    if (!has.amx_int8 || supports(has, Isa::Amx)) return "";
    if (!RUSSET_AMX) return "the kernels were built by a compiler that does not know AMX";
    if (!has.avx512vnni) return "the processor, or the system, lacks AVX-512 VNNI beside it";
    if (!has.amx_saved) return "the system does not save AMX's tiles when it switches threads";
    return "the system refuses AMX's tiles to this process: " + std::generic_category().message(has.amx_refusal);
}

void force(std::string_view wanted) {
    if (wanted == "auto") {
        state().active = fastest(state().features);
        return;
    }
    for (Isa isa : supported(true)) {
        if (wanted == name(isa)) {
            state().active = isa;
            return;
        }
    }
    std::string accepted = "auto";
    for (Isa isa : supported(false)) accepted += std::string(", ") + name(isa);
    const std::string refusal = wanted == name(Isa::Amx) ? amx_refusal() : "";
    throw std::invalid_argument("instruction set \"" + std::string(wanted) + "\" is not available here" +
                                (refusal.empty() ? "" : " (" + refusal + ")") + "; accepted: " + accepted);
}

std::string isa_class() {
    // Instructions that give the same integers sooner make no class of their own.
    Isa isa = active();
    if (isa == Isa::Amx || isa == Isa::AmxEmulated) isa = Isa::Avx512Vnni;
    if (isa == Isa::NeonDotprod || isa == Isa::NeonI8mm) isa = Isa::Neon;
#if defined(__x86_64__)
    return std::string("x86-") + name(isa);
#elif defined(__aarch64__)
    return std::string("arm64-") + name(isa);
#else
    return std::string("cpu-") + name(isa);
#endif
}

}  // namespace russet
