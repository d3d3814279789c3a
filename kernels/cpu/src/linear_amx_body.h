// The kernel for AMX: up to 16 rows times 16 outputs, 32 inputs to one product of tiles. Included by linear_amx.cpp,
// where tiles are the processor's, and by linear_amx_emulated.cpp, where they are memory: so this logic is tested on
// any machine that has AVX-512.
//
// A group of 32 inputs is
//     inputs    [rows][32 bytes]   halves of each row's group, where the VNNI kernel's ActivationGroup has them
//     weights   [8][64 bytes]      four inputs of 16 outputs to a tile row: the packed layout of 8 bits
//     products  [rows][16 int32]   exact
// Products leave the tiles after each group, to be scaled and summed by AVX-512 as the VNNI kernel does, in the same
// order: the same bits. That is most of the work, so tiles are worth about half the time and not the eighth that their
// rate promises. Dense weights meet float32 activations and stay with AVX-512: in bfloat16, which tiles can multiply,
// they would not give the same bits.
//
// What includes this brings a struct Tiles, the processor's instructions for tiles 0..7 by number:
//     configure(config), release()                shapes from here on, all tiles zero; none of them
//     zero<tile>()
//     load<tile>(rows, stride)                    a tile row from each `stride` bytes
//     store<tile>(rows, stride)
//     multiply<products, inputs, weights>()       products[m][n] += inputs[m][k], signed, * weights[k / 4][4n + k % 4]
#pragma once

#include <immintrin.h>

#include "linear_avx512.h"
#include "linear_kernels.h"

namespace russet {
namespace {

constexpr int kTileRows = 16;
// Up to 8 rows are one pass of the VNNI kernel, which is then bound by reading the weights, as AMX would be.
constexpr int kFewestRows = 9;

constexpr int kHighProducts = 0, kLowProducts = 1, kHighInputs = 2, kLowInputs = 3, kWeights = 4;

// As ldtilecfg reads it.
struct alignas(64) TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

inline void shape(TileConfig& config, int tile, int rows, int row_bytes) {
    config.rows[tile] = static_cast<uint8_t>(rows);
    config.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
}

inline TileConfig tile_config(int rows) {
    TileConfig config{};
    config.palette = 1;
    shape(config, kHighProducts, rows, 4 * kBlock);
    shape(config, kLowProducts, rows, 4 * kBlock);
    shape(config, kHighInputs, rows, kGroup);
    shape(config, kLowInputs, rows, kGroup);
    shape(config, kWeights, kGroup / 4, 4 * kBlock);
    return config;
}

template <class Tiles, Format format, bool symmetric>
void multiply_tile(const PackedView& w, const ActivationsView& x, int rows, int m, int block, float* y, ptrdiff_t ldy,
                   Write write) {
    constexpr int kGroupBytes = format == Format::Affine4 ? 256 : 512;
    constexpr int kZeroPoint = format == Format::Affine4 ? 8 : 128;
    const int groups = w.k / kGroup;
    const int scale_bytes = w.scale_type == ScaleType::Float32 ? 4 * kBlock : 2 * kBlock;
    const int scale_step = symmetric ? scale_bytes : 2 * scale_bytes;
    const ptrdiff_t row_bytes = groups * static_cast<ptrdiff_t>(sizeof(ActivationGroup));
    const uint8_t* values = w.values + block * w.block_bytes();
    const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + block * w.block_scale_bytes();
    const ActivationGroup* inputs = x.row(m);

    alignas(64) uint8_t unpacked[kGroup * kBlock];
    alignas(64) int32_t high[kTileRows][kBlock], low[kTileRows][kBlock];
    __m512 total[kTileRows];
    for (int r = 0; r < rows; ++r) total[r] = _mm512_setzero_ps();
    for (int group = 0; group < groups; ++group) {
        const uint8_t* weights = values;
        if constexpr (format == Format::Affine4) {
            __m512i bytes[8];
            unpack<format>(values, bytes);
            for (int j = 0; j < 8; ++j) _mm512_store_si512(unpacked + 64 * j, bytes[j]);
            weights = unpacked;
        }
        const uint8_t* halves = reinterpret_cast<const uint8_t*>(inputs[group].values);
        Tiles::template load<kWeights>(weights, 64);
        Tiles::template load<kHighInputs>(halves, row_bytes);
        Tiles::template zero<kHighProducts>();
        Tiles::template multiply<kHighProducts, kHighInputs, kWeights>();
        Tiles::template store<kHighProducts>(high, sizeof(high[0]));
        int32_t fine = 0;
        for (int r = 0; r < rows; ++r) fine |= inputs[r * groups + group].fine;
        if (fine) {
            Tiles::template load<kLowInputs>(halves + kGroup, row_bytes);
            Tiles::template zero<kLowProducts>();
            Tiles::template multiply<kLowProducts, kLowInputs, kWeights>();
            Tiles::template store<kLowProducts>(low, sizeof(low[0]));
        }
        const __m512 scale = load_scales(scales, w.scale_type);
        for (int r = 0; r < rows; ++r) {
            const ActivationGroup& input = inputs[r * groups + group];
            __m512i product = _mm512_slli_epi32(_mm512_load_si512(high[r]), 7);
            if (fine) product = _mm512_add_epi32(product, _mm512_load_si512(low[r]));
            if constexpr (symmetric) product = _mm512_sub_epi32(product, _mm512_set1_epi32(kZeroPoint * input.sum));
            const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(input.scale));
            total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), both, total[r]);
        }
        if constexpr (!symmetric) {
            const __m512 bias = load_scales(scales + scale_bytes, w.scale_type);
            for (int r = 0; r < rows; ++r) {
                total[r] = _mm512_fmadd_ps(bias, _mm512_set1_ps(inputs[r * groups + group].scaled_sum), total[r]);
            }
        }
        values += kGroupBytes;
        if (((group + 1) & (w.groups_per_scale - 1)) == 0) scales += scale_step;
    }
    for (int r = 0; r < rows; ++r) put(y + (m + r) * ldy + block * kBlock, total[r], w.n - block * kBlock, write);
}

// Rows m0..m1 in tiles of one height. The weights of a block stay in the nearest caches while all rows pass by them.
template <class Tiles, Format format, bool symmetric>
void multiply_height(const PackedView& w, const ActivationsView& x, int height, int m0, int m1, int b0, int b1,
                     float* y, ptrdiff_t ldy, Write write) {
    const TileConfig config = tile_config(height);
    Tiles::configure(config);
    for (int block = b0; block < b1; ++block) {
        for (int m = m0; m < m1; m += height) {
            multiply_tile<Tiles, format, symmetric>(w, x, height, m, block, y, ldy, write);
        }
    }
    Tiles::release();  // so that the system need not save them, and nobody else meets our shapes
}

template <class Tiles>
void multiply_amx(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y,
                  ptrdiff_t ldy, Write write) {
    if (w.quantized()) {
        constexpr auto kFour = Format::Affine4, kEight = Format::Affine8;
        const auto four = w.symmetric ? multiply_height<Tiles, kFour, true> : multiply_height<Tiles, kFour, false>;
        const auto eight = w.symmetric ? multiply_height<Tiles, kEight, true> : multiply_height<Tiles, kEight, false>;
        const auto multiply = w.format == kFour ? four : eight;
        // Whole tiles, then one of what is left.
        while (m1 - m0 >= kFewestRows) {
            const int height = m1 - m0 < kTileRows ? m1 - m0 : kTileRows;
            const int end = m1 - (m1 - m0) % height;
            multiply(w, x, height, m0, end, b0, b1, y, ldy, write);
            m0 = end;
        }
    }
    if (m0 < m1) linear_kernels_avx512().multiply(w, x, m0, m1, b0, b1, y, ldy, write);
}

}  // namespace
}  // namespace russet
