// The kernels in portable C++: the definition of the others' arithmetic, bit for bit.
#include <cmath>
#include <cstring>

#include "half.h"
#include "linear_kernels.h"
#include "linear_quantize.h"

namespace russet {
namespace {

struct Scalar {
    // Magnitudes as bits are ordered like the floats, with infinity and NaN above them all.
    static float largest(const float* x) {
        uint32_t largest = 0;
        for (int i = 0; i < kGroup; ++i) {
            uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
            if (magnitude > largest) largest = magnitude;
        }
        return std::bit_cast<float>(largest);
    }

    template <bool fine>
    static int32_t round(const float* x, float inverse, int16_t* values) {
        int32_t sum = 0;
        for (int i = 0; i < kGroup; ++i) {
            values[i] = static_cast<int16_t>(std::nearbyintf(x[i] * inverse) * (fine ? 1 : 128));
            sum += values[i];
        }
        return sum;
    }
};

float scale_at(const PackedView& w, const void* scales, int index) {
    switch (w.scale_type) {
        case ScaleType::Float32:
            return static_cast<const float*>(scales)[index];
        case ScaleType::Bfloat16:
            return from_bfloat16(static_cast<const uint16_t*>(scales)[index]);
        case ScaleType::Float16:
            return from_float16(static_cast<const uint16_t*>(scales)[index]);
    }
    return 0.0f;
}

// The exact product of a group of one output, less the zero point's share where symmetric.
int32_t dot(const PackedView& w, const uint8_t* values, const int16_t* x, int32_t sum) {
    int32_t total = 0;
    for (int i = 0; i < kGroup; ++i) {
        int q;
        if (w.format == Format::Affine4) {
            uint8_t byte = values[i / 8 * 64 + i % 4];
            q = i % 8 < 4 ? byte & 15 : byte >> 4;
        } else {
            q = values[i / 4 * 64 + i % 4];
        }
        total += q * x[i];
    }
    return w.symmetric ? total - w.zero_point() * sum : total;
}

float quantized_product(const PackedView& w, const ActivationsView& x, int m, int block, int column) {
    const uint8_t* values = w.values + block * w.block_bytes() + column * 4;
    const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + block * w.block_scale_bytes();
    const size_t group_bytes = w.block_bytes() / w.groups();
    const int scale_row = (w.symmetric ? 1 : 2) * kBlock;
    float total = 0.0f;
    for (int group = 0; group < w.groups(); ++group) {
        int at = group / w.groups_per_scale * scale_row + column;
        const ActivationGroup& input = x.row(m)[group];
        int32_t product = dot(w, values + group * group_bytes, input.values, input.sum);
        float scale = scale_at(w, scales, at) * input.scale;
        total = std::fma(static_cast<float>(product), scale, total);
        if (!w.symmetric) {
            total = std::fma(scale_at(w, scales, at + kBlock), input.scaled_sum, total);
        }
    }
    return total;
}

float dense_product(const PackedView& w, const ActivationsView& x, int m, int block, int column) {
    const uint8_t* values = w.values + block * w.block_bytes();
    const float* row = x.floats + static_cast<size_t>(m) * x.k;
    float total = 0.0f;
    for (int k = 0; k < w.k; ++k) {
        size_t at = static_cast<size_t>(k) * kBlock + column;
        float weight;
        if (w.format == Format::Float32) {
            weight = reinterpret_cast<const float*>(values)[at];
        } else {
            uint16_t bits = reinterpret_cast<const uint16_t*>(values)[at];
            weight = w.format == Format::Bfloat16 ? from_bfloat16(bits) : from_float16(bits);
        }
        total = std::fma(row[k], weight, total);
    }
    return total;
}

void multiply(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y, ptrdiff_t ldy,
              Write write) {
    for (int block = b0; block < b1; ++block) {
        for (int m = m0; m < m1; ++m) {
            for (int column = 0; column < kBlock && block * kBlock + column < w.n; ++column) {
                float product = w.quantized() ? quantized_product(w, x, m, block, column)
                                              : dense_product(w, x, m, block, column);
                float& out = y[m * ldy + block * kBlock + column];
                out = write == Write::Add ? out + product : product;
            }
        }
    }
}

}  // namespace

const LinearKernels& linear_kernels_scalar() {
    static constexpr LinearKernels kernels{quantize_row<Scalar>, multiply};
    return kernels;
}

}  // namespace russet
