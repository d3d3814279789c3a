// bfloat16 and float16 as their bit patterns, in portable code. (Kernels use the processor's own conversions.)
#pragma once

#include <bit>
#include <cstdint>

namespace russet {

inline float from_bfloat16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

inline float from_float16(uint16_t bits) {
    uint32_t magnitude = (bits & 0x7fffu) << 13;
    // Moved into place the exponent is 112 too small; scaling by 2^112 also turns half's subnormals into floats.
    float value = std::bit_cast<float>(magnitude) * 0x1p112f;
    if ((bits & 0x7c00u) == 0x7c00u) value = std::bit_cast<float>(magnitude | 0x7f800000u);
    return bits & 0x8000u ? -value : value;
}

// Round to nearest even; what lies past the largest half becomes infinity.
inline uint16_t to_float16(float value) {
    uint32_t bits = std::bit_cast<uint32_t>(value);
    uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
    if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds at the right bit
        return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u);
    }
    return sign | static_cast<uint16_t>((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

// Truncates: for values that are known to be bfloat16 already.
inline uint16_t to_bfloat16_exact(float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); }

}  // namespace russet
