#include "linear.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "half.h"
#include "isa.h"
#include "pool.h"

namespace russet {
namespace {

constexpr size_t kCacheLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;
// Rows of one tile: their activations stay in the second-level cache while a tile's weights pass by.
constexpr int kTileRows = 256;

size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

const LinearKernels& kernels() {
    switch (active()) {
#if defined(__x86_64__)
#if RUSSET_AMX
        case Isa::Amx:
            return linear_kernels_amx();
#endif
        case Isa::AmxEmulated:
            return linear_kernels_amx_emulated();
        case Isa::Avx512Vnni:
            return linear_kernels_avx512();
        case Isa::Avx2:
            return linear_kernels_avx2();
#elif defined(__aarch64__)
        case Isa::NeonI8mm:
            return linear_kernels_neon_i8mm();
        case Isa::NeonDotprod:
            return linear_kernels_neon_dotprod();
        case Isa::Neon:
            return linear_kernels_neon();
#endif
        default:
            return linear_kernels_scalar();
    }
}

float scale_at(const PackedView& w, size_t index) {
    switch (w.scale_type) {
        case ScaleType::Float32:
            return static_cast<const float*>(w.scales)[index];
        case ScaleType::Bfloat16:
            return from_bfloat16(static_cast<const uint16_t*>(w.scales)[index]);
        case ScaleType::Float16:
            return from_float16(static_cast<const uint16_t*>(w.scales)[index]);
    }
    return 0.0f;
}

}  // namespace

AlignedBytes::AlignedBytes(size_t size) : size_(size) {
    if (size == 0) return;
    size_t alignment = size >= kHugePage ? kHugePage : kCacheLine;
    size_t rounded = round_up(size, alignment);
    data_.reset(static_cast<uint8_t*>(std::aligned_alloc(alignment, rounded)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    // Weights are read once per step: with small pages the address translation alone costs a tenth of it. Advice only.
    if (size >= kHugePage) madvise(data_.get(), rounded, MADV_HUGEPAGE);
#endif
}

void AlignedBytes::Release::operator()(uint8_t* data) const { std::free(data); }

PackedMatrix::PackedMatrix(PackedView view, AlignedBytes values, AlignedBytes scales)
    : values_(std::move(values)), scales_(std::move(scales)), view_(view) {
    view_.values = values_.data();
    view_.scales = scales_.data();
}

void dequantize_row(const PackedMatrix& matrix, int n, float* out) {
    const PackedView& w = matrix.view();
    if (n < 0 || n >= w.n) {
        throw std::out_of_range("row " + std::to_string(n) + " of a matrix of " + std::to_string(w.n) + " rows");
    }
    const int column = n % kBlock;
    const uint8_t* values = w.values + static_cast<size_t>(n / kBlock) * w.block_bytes();
    if (!w.quantized()) {
        for (int k = 0; k < w.k; ++k) {
            size_t at = static_cast<size_t>(k) * kBlock + column;
            if (w.format == Format::Float32) {
                std::memcpy(&out[k], values + at * 4, 4);
            } else {
                uint16_t bits;
                std::memcpy(&bits, values + at * 2, 2);
                out[k] = w.format == Format::Bfloat16 ? from_bfloat16(bits) : from_float16(bits);
            }
        }
        return;
    }
    const size_t scale_groups = w.groups() / w.groups_per_scale;
    const size_t scale_row = (w.symmetric ? 1 : 2) * kBlock;
    for (int group = 0; group < w.groups(); ++group) {
        size_t at = (static_cast<size_t>(n / kBlock) * scale_groups + group / w.groups_per_scale) * scale_row + column;
        float scale = scale_at(w, at);
        float bias = w.symmetric ? -scale * static_cast<float>(w.zero_point()) : scale_at(w, at + kBlock);
        for (int i = 0; i < kGroup; ++i) {
            int q;
            if (w.format == Format::Affine4) {
                uint8_t byte = values[(group * 4 + i / 8) * 64 + column * 4 + i % 4];
                q = i % 8 < 4 ? byte & 15 : byte >> 4;
            } else {
                q = values[(group * 8 + i / 4) * 64 + column * 4 + i % 4];
            }
            // As MLX dequantizes; for a symmetric group this is exactly scale * (q - zero point), rounded once.
            out[group * kGroup + i] = w.symmetric ? scale * static_cast<float>(q - w.zero_point())
                                                  : scale * static_cast<float>(q) + bias;
        }
    }
}

void Activations::resize(int rows, int k, bool quantized, Rounding rounding) {
    kernels_ = &kernels();
    rows_ = rows;
    k_ = k;
    quantized_ = quantized;
    rounding_ = rounding;
    const size_t row = row_bytes();
    if (rows * row > memory_.size()) memory_ = AlignedBytes(rows * row);
}

ActivationsView Activations::view() const {
    return {rows_, k_, quantized_ ? reinterpret_cast<const ActivationGroup*>(memory_.data()) : nullptr,
            quantized_ ? nullptr : reinterpret_cast<const float*>(memory_.data())};
}

void prepare(Activations& activations, const float* x, ptrdiff_t ldx, int row0, int row1) {
    const size_t k = activations.k_;
    for (int row = row0; row < row1; ++row) {
        if (activations.quantized_) {
            ActivationGroup* groups = reinterpret_cast<ActivationGroup*>(activations.memory_.data());
            activations.kernels_->quantize(x + row * ldx, activations.k_, activations.rounding_,
                                           groups + row * (k / kGroup));
        } else {
            float* floats = reinterpret_cast<float*>(activations.memory_.data());
            std::memcpy(floats + row * k, x + row * ldx, sizeof(float) * k);
        }
    }
}

void copy_row(Activations& to, int row, const Activations& from, int from_row) {
    const size_t bytes = to.row_bytes();
    std::memcpy(to.memory_.data() + row * bytes, from.memory_.data() + from_row * bytes, bytes);
}

void linear_chunk(const PackedMatrix& w, const Activations& x, int m0, int m1, int n0, int n1, float* y, ptrdiff_t ldy,
                  Write write) {
    if (m0 >= m1 || n0 >= n1) return;
    x.kernels_->multiply(w.view(), x.view(), m0, m1, n0 / kBlock, (n1 + kBlock - 1) / kBlock, y, ldy, write);
}

void dense_chunk(const PackedMatrix& w, const float* x, int m0, int m1, int n0, int n1, float* y, ptrdiff_t ldy,
                 Write write) {
    if (m0 >= m1 || n0 >= n1) return;
    kernels().multiply(w.view(), {m1, w.k(), nullptr, x}, m0, m1, n0 / kBlock, (n1 + kBlock - 1) / kBlock, y, ldy, write);
}

Tiling::Tile Tiling::at(int chunk) const {
    int m0 = chunk % row_tiles * row_step, n0 = chunk / row_tiles * n_step;
    return {m0, std::min(m0 + row_step, rows), n0, std::min(n0 + n_step, n)};
}

Tiling tile(const PackedMatrix& w, int rows, int threads) {
    // Enough chunks that one thread's bad luck is shared, few enough that starting them costs nothing.
    constexpr int kChunksPerThread = 4;
    Tiling tiling{rows, w.n(), std::max(1, std::min(rows, kTileRows)), 0, 0, 0};
    tiling.row_tiles = (rows + tiling.row_step - 1) / tiling.row_step;
    int wanted = threads <= 1 ? 1 : std::max(1, kChunksPerThread * threads / std::max(1, tiling.row_tiles));
    int blocks = std::max(1, (w.blocks() + wanted - 1) / wanted);
    tiling.n_step = blocks * kBlock;
    tiling.n_tiles = (w.n() + tiling.n_step - 1) / tiling.n_step;
    return tiling;
}

void linear(Pool& pool, const PackedMatrix& w, Rounding rounding, Activations& scratch, const float* x, int rows,
            float* y) {
    if (rows == 0) return;
    scratch.resize(rows, w.k(), w.quantized(), rounding);
    constexpr int kRowsPerChunk = 8;
    pool.run((rows + kRowsPerChunk - 1) / kRowsPerChunk, [&](int chunk) {
        prepare(scratch, x, w.k(), chunk * kRowsPerChunk, std::min((chunk + 1) * kRowsPerChunk, rows));
    });
    Tiling tiling = tile(w, rows, pool.threads());
    pool.run(tiling.chunks(), [&](int chunk) {
        Tiling::Tile t = tiling.at(chunk);
        linear_chunk(w, scratch, t.m0, t.m1, t.n0, t.n1, y, w.n());
    });
}

}  // namespace russet
