// Repacking weights, once, into the layout of linear_kernels.h.
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "half.h"
#include "linear.h"

namespace russet {
namespace {

float float_at(const void* data, Float type, size_t index) {
    switch (type) {
        case Float::Float32:
            return static_cast<const float*>(data)[index];
        case Float::Bfloat16:
            return from_bfloat16(static_cast<const uint16_t*>(data)[index]);
        case Float::Float16:
            return from_float16(static_cast<const uint16_t*>(data)[index]);
    }
    return 0.0f;
}

bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

bool is_float16(float value) { return same_bits(from_float16(to_float16(value)), value); }

bool is_bfloat16(float value) { return same_bits(from_bfloat16(to_bfloat16_exact(value)), value); }

[[noreturn]] void refuse(const std::string& what, int value, const std::string& accepted) {
    throw std::invalid_argument(what + " is " + std::to_string(value) + "; accepted: " + accepted);
}

// The scales and biases of all groups as floats, [n][groups], and how narrow a type holds them all.
struct Scales {
    std::vector<float> scales, biases;
    bool symmetric = true;
    ScaleType type = ScaleType::Float16;
};

Scales read_scales(const AffineSource& source) {
    const size_t count = static_cast<size_t>(source.n) * (source.k / source.group);
    const float zero_point = source.bits == 4 ? 8.0f : 128.0f;
    Scales read;
    read.scales.resize(count);
    read.biases.resize(count);
    for (size_t i = 0; i < count; ++i) {
        read.scales[i] = float_at(source.scales, source.scale_type, i);
        read.biases[i] = float_at(source.biases, source.scale_type, i);
        // Plain comparison: -0 is as good a bias as 0.
        read.symmetric = read.symmetric && read.biases[i] == -zero_point * read.scales[i];
    }
    bool float16 = true, bfloat16 = true;
    for (size_t i = 0; i < count; ++i) {
        float16 = float16 && is_float16(read.scales[i]) && (read.symmetric || is_float16(read.biases[i]));
        bfloat16 = bfloat16 && is_bfloat16(read.scales[i]) && (read.symmetric || is_bfloat16(read.biases[i]));
    }
    read.type = float16 ? ScaleType::Float16 : bfloat16 ? ScaleType::Bfloat16 : ScaleType::Float32;
    return read;
}

void put_scale(uint8_t* scales, ScaleType type, size_t index, float value) {
    if (type == ScaleType::Float32) {
        std::memcpy(scales + index * 4, &value, 4);
        return;
    }
    uint16_t bits = type == ScaleType::Float16 ? to_float16(value) : to_bfloat16_exact(value);
    std::memcpy(scales + index * 2, &bits, 2);
}

void put_row(const PackedView& w, uint8_t* values, int n, const uint8_t* row) {
    uint8_t* block = values + static_cast<size_t>(n / kBlock) * w.block_bytes() + n % kBlock * 4;
    if (w.format == Format::Affine8) {
        for (int k = 0; k < w.k; k += 4) std::memcpy(block + static_cast<size_t>(k) * kBlock, row + k, 4);
        return;
    }
    for (int k = 0; k < w.k; k += 8) {  // eight nibbles in four bytes, even inputs in the low halves
        uint8_t* out = block + static_cast<size_t>(k) * kBlock / 2;
        for (int i = 0; i < 4; ++i) {
            auto nibble = [&](int at) { return row[at / 2] >> at % 2 * 4 & 15; };
            out[i] = static_cast<uint8_t>(nibble(k + i) | nibble(k + 4 + i) << 4);
        }
    }
}

}  // namespace

PackedMatrix pack_affine(const AffineSource& source) {
    if (source.bits != 4 && source.bits != 8) refuse("bits", source.bits, "4 or 8");
    if (source.group != 32 && source.group != 64 && source.group != 128) refuse("group", source.group, "32, 64 or 128");
    if (source.n < 1) refuse("outputs", source.n, "at least 1");
    if (source.k < 1 || source.k % source.group != 0) {
        refuse("inputs", source.k, "positive multiples of the group, " + std::to_string(source.group));
    }
    Scales read = read_scales(source);
    PackedView view{nullptr,
                    nullptr,
                    source.n,
                    source.k,
                    (source.n + kBlock - 1) / kBlock,
                    source.bits == 4 ? Format::Affine4 : Format::Affine8,
                    read.type,
                    read.symmetric,
                    source.group / kGroup};
    AlignedBytes values(view.block_bytes() * view.blocks);
    AlignedBytes scales(view.block_scale_bytes() * view.blocks);
    // Only the padding of the last block is not written below.
    std::memset(values.data() + view.block_bytes() * (view.blocks - 1), 0, view.block_bytes());
    std::memset(scales.data() + view.block_scale_bytes() * (view.blocks - 1), 0, view.block_scale_bytes());

    const size_t row_bytes = static_cast<size_t>(source.k) * source.bits / 8;
    const int scale_groups = source.k / source.group;
    const size_t scale_row = (view.symmetric ? 1 : 2) * kBlock;
    for (int n = 0; n < source.n; ++n) {
        put_row(view, values.data(), n, reinterpret_cast<const uint8_t*>(source.weight) + n * row_bytes);
        for (int group = 0; group < scale_groups; ++group) {
            size_t from = static_cast<size_t>(n) * scale_groups + group;
            size_t to = (static_cast<size_t>(n / kBlock) * scale_groups + group) * scale_row + n % kBlock;
            put_scale(scales.data(), view.scale_type, to, read.scales[from]);
            if (!view.symmetric) put_scale(scales.data(), view.scale_type, to + kBlock, read.biases[from]);
        }
    }
    return PackedMatrix(view, std::move(values), std::move(scales));
}

PackedMatrix pack_dense(const void* weight, Float type, int n, int k) {
    if (n < 1) refuse("outputs", n, "at least 1");
    if (k < 1) refuse("inputs", k, "at least 1");
    Format format = type == Float::Float32    ? Format::Float32
                    : type == Float::Bfloat16 ? Format::Bfloat16
                                              : Format::Float16;
    PackedView view{nullptr, nullptr, n, k, (n + kBlock - 1) / kBlock, format, ScaleType::Float32, false, 1};
    AlignedBytes values(view.block_bytes() * view.blocks);
    std::memset(values.data() + view.block_bytes() * (view.blocks - 1), 0, view.block_bytes());
    const size_t width = type == Float::Float32 ? 4 : 2;
    const uint8_t* from = static_cast<const uint8_t*>(weight);
    for (int row = 0; row < n; ++row) {
        uint8_t* block = values.data() + static_cast<size_t>(row / kBlock) * view.block_bytes() + row % kBlock * width;
        for (int i = 0; i < k; ++i) {
            std::memcpy(block + static_cast<size_t>(i) * kBlock * width, from + (static_cast<size_t>(row) * k + i) * width,
                        width);
        }
    }
    return PackedMatrix(view, std::move(values), AlignedBytes());
}

}  // namespace russet
