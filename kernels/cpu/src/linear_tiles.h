// How a product is walked, in tiles of rows times blocks that fit the registers: shared by the instruction sets, each
// of which brings the tile itself. Everything here is of internal linkage, see isa.h.
//
// An instruction set is a struct with
//     kRows, kBlocks                              rows and blocks of the largest quantized tile
//     kDenseRows, kDenseBlocks                    rows and blocks of the largest dense tile
//     quantized<format, symmetric, rows, blocks>(w, x, m, block, y, ldy, write)
//     dense<format, rows, blocks>(w, x, m, block, y, ldy, write)
#pragma once

#include "linear_kernels.h"

namespace russet {
namespace {

template <class Set, Format format, bool symmetric, int rows, int blocks>
inline void quantized_rows(const PackedView& w, const ActivationsView& x, int wanted, int m, int block, float* y,
                           ptrdiff_t ldy, Write write) {
    if (wanted == rows) {
        Set::template quantized<format, symmetric, rows, blocks>(w, x, m, block, y, ldy, write);
    } else if constexpr (rows > 1) {
        quantized_rows<Set, format, symmetric, rows - 1, blocks>(w, x, wanted, m, block, y, ldy, write);
    }
}

// The weights of a tile's blocks stay in the nearest caches while all rows pass by them. Returns the first block left.
template <class Set, Format format, bool symmetric, int blocks>
inline int quantized_columns(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y,
                             ptrdiff_t ldy, Write write) {
    // Tiles of about equal height: a short one would unpack the weights for the sake of few rows.
    const int tiles = (m1 - m0 + Set::kRows - 1) / Set::kRows;
    for (; b0 + blocks <= b1; b0 += blocks) {
        int m = m0;
        for (int left = tiles; left > 0; --left) {
            int rows = (m1 - m + left - 1) / left;
            quantized_rows<Set, format, symmetric, Set::kRows, blocks>(w, x, rows, m, b0, y, ldy, write);
            m += rows;
        }
    }
    return b0;
}

template <class Set, Format format, bool symmetric>
inline void quantized_blocks(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y,
                             ptrdiff_t ldy, Write write) {
    b0 = quantized_columns<Set, format, symmetric, Set::kBlocks>(w, x, m0, m1, b0, b1, y, ldy, write);
    if constexpr (Set::kBlocks > 1) quantized_columns<Set, format, symmetric, 1>(w, x, m0, m1, b0, b1, y, ldy, write);
}

template <class Set, Format format, int rows, int blocks>
inline void dense_rows(const PackedView& w, const ActivationsView& x, int wanted, int m, int block, float* y,
                       ptrdiff_t ldy, Write write) {
    if (wanted == rows) {
        Set::template dense<format, rows, blocks>(w, x, m, block, y, ldy, write);
    } else if constexpr (rows > 1) {
        dense_rows<Set, format, rows - 1, blocks>(w, x, wanted, m, block, y, ldy, write);
    }
}

template <class Set, Format format, int blocks>
inline int dense_columns(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y,
                         ptrdiff_t ldy, Write write) {
    // Of about equal height: a short tile has too few sums under way to keep the multipliers busy.
    const int tiles = (m1 - m0 + Set::kDenseRows - 1) / Set::kDenseRows;
    for (; b0 + blocks <= b1; b0 += blocks) {
        int m = m0;
        for (int left = tiles; left > 0; --left) {
            int rows = (m1 - m + left - 1) / left;
            dense_rows<Set, format, Set::kDenseRows, blocks>(w, x, rows, m, b0, y, ldy, write);
            m += rows;
        }
    }
    return b0;
}

template <class Set, Format format>
inline void dense_blocks(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y,
                         ptrdiff_t ldy, Write write) {
    b0 = dense_columns<Set, format, Set::kDenseBlocks>(w, x, m0, m1, b0, b1, y, ldy, write);
    if constexpr (Set::kDenseBlocks > 1) dense_columns<Set, format, 1>(w, x, m0, m1, b0, b1, y, ldy, write);
}

template <class Set>
void multiply_tiles(const PackedView& w, const ActivationsView& x, int m0, int m1, int b0, int b1, float* y,
                    ptrdiff_t ldy, Write write) {
    switch (w.format) {
        case Format::Affine4:
            if (w.symmetric) return quantized_blocks<Set, Format::Affine4, true>(w, x, m0, m1, b0, b1, y, ldy, write);
            return quantized_blocks<Set, Format::Affine4, false>(w, x, m0, m1, b0, b1, y, ldy, write);
        case Format::Affine8:
            if (w.symmetric) return quantized_blocks<Set, Format::Affine8, true>(w, x, m0, m1, b0, b1, y, ldy, write);
            return quantized_blocks<Set, Format::Affine8, false>(w, x, m0, m1, b0, b1, y, ldy, write);
        case Format::Float32:
            return dense_blocks<Set, Format::Float32>(w, x, m0, m1, b0, b1, y, ldy, write);
        case Format::Bfloat16:
            return dense_blocks<Set, Format::Bfloat16>(w, x, m0, m1, b0, b1, y, ldy, write);
        case Format::Float16:
            return dense_blocks<Set, Format::Float16>(w, x, m0, m1, b0, b1, y, ldy, write);
    }
}

}  // namespace
}  // namespace russet
