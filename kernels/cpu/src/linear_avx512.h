// How the kernels for AVX-512 read scales and weights and write outputs: shared by linear_avx512.cpp and
// linear_amx_body.h. Everything here is of internal linkage, see isa.h.
#pragma once

#include <immintrin.h>

#include "linear_kernels.h"

namespace russet {
namespace {

inline __m512 load_scales(const uint8_t* at, ScaleType type) {
    if (type == ScaleType::Float16) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
    if (type == ScaleType::Float32) return _mm512_loadu_ps(at);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// The weights of a group: four inputs of 16 outputs to a register.
template <Format format>
inline void unpack(const uint8_t* values, __m512i (&weights)[8]) {
    if constexpr (format == Format::Affine4) {
        const __m512i low_half = _mm512_set1_epi8(15);
        for (int j = 0; j < 4; ++j) {
            const __m512i packed = _mm512_loadu_si512(values + j * 64);
            weights[2 * j] = _mm512_and_si512(packed, low_half);
            weights[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low_half);
        }
    } else {
        for (int j = 0; j < 8; ++j) weights[j] = _mm512_loadu_si512(values + j * 64);
    }
}

// 16 outputs of which the first `outputs` exist.
inline void put(float* y, __m512 value, int outputs, Write write) {
    const __mmask16 mask = outputs >= kBlock ? 0xffff : static_cast<__mmask16>((1u << outputs) - 1);
    if (write == Write::Add) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
    _mm512_mask_storeu_ps(y, mask, value);
}

}  // namespace
}  // namespace russet
