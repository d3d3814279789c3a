// Matrix products with packed weights: y[m][n] = sum over k of x[m][k] * w[n][k].
//
// Quantized weights meet activations quantized to 15 bits per 32 inputs (integers of at most 16256 and a scale, an error
// of about 1e-5), or to 8 bits where that does little harm: Rounding in linear_kernels.h. Each group's product is an exact integer; the groups are
// summed in float in one fixed order, with fused multiply-adds, on every instruction set. Dense weights meet float32
// activations, summed over k in ascending order. So y[m][n] is the same bits whatever other rows and outputs are
// computed with it, however the work is cut into chunks, and on whichever instruction set.
//
//     PackedMatrix w = pack_affine({...});               // once
//     activations.resize(rows, w.k(), w.quantized(), Rounding::Mixed);    // once per phase
//     prepare(activations, x, ldx, row0, row1);          // any split of the rows, on any thread
//     linear_chunk(w, activations, m0, m1, n0, n1, y, ldy);   // any split with n0 a multiple of 16
#pragma once

#include <cstdint>
#include <memory>

#include "linear_kernels.h"

namespace russet {

// Bytes aligned to a cache line, and from 2 MB up to huge pages. Contents are not initialised.
class AlignedBytes {
  public:
    AlignedBytes() = default;
    explicit AlignedBytes(size_t size);
    uint8_t* data() const { return data_.get(); }
    size_t size() const { return size_; }

  private:
    struct Release {
        void operator()(uint8_t* data) const;
    };
    std::unique_ptr<uint8_t, Release> data_;
    size_t size_ = 0;
};

// A weight matrix in the layout of linear_kernels.h. Immutable; owns its memory.
class PackedMatrix {
  public:
    int n() const { return view_.n; }  // outputs
    int k() const { return view_.k; }  // inputs
    int blocks() const { return view_.blocks; }
    bool quantized() const { return view_.quantized(); }
    size_t nbytes() const { return values_.size() + scales_.size(); }
    const PackedView& view() const { return view_; }

    PackedMatrix(PackedView view, AlignedBytes values, AlignedBytes scales);

  private:
    AlignedBytes values_, scales_;
    PackedView view_;
};

using Matrix = std::shared_ptr<const PackedMatrix>;

// Element types of what is packed.
enum class Float : uint8_t { Float32, Bfloat16, Float16 };

// MLX's affine groups (kernels/decoder.py: Quantized): w = scale * q + bias.
struct AffineSource {
    const uint32_t* weight;  // [n][k * bits / 32], lowest bits first
    const void* scales;      // [n][k / group]
    const void* biases;      // [n][k / group]
    Float scale_type;        // of both
    int n, k;
    int bits;   // 4 or 8
    int group;  // 32, 64 or 128; divides k
};

// No value changes: scales that float16 or bfloat16 can hold exactly are stored so, others as float32.
// Throws std::invalid_argument naming the accepted values.
PackedMatrix pack_affine(const AffineSource& source);

// weight: [n][k] of `type`, which stays the type in memory.
PackedMatrix pack_dense(const void* weight, Float type, int n, int k);

// The float value of output row n: k floats (embedding lookup).
void dequantize_row(const PackedMatrix& w, int n, float* out);

// Rows of activations as linear_chunk wants them, in the layout of the instruction set active at resize(), which then
// also multiplies them. Reused from phase to phase; memory only grows.
class Activations {
  public:
    // Room for `rows` rows of k inputs, in the form that quantized (or dense) weights want. Contents are then undefined.
    void resize(int rows, int k, bool quantized, Rounding rounding);
    int rows() const { return rows_; }
    int k() const { return k_; }
    bool quantized() const { return quantized_; }
    ActivationsView view() const;

  private:
    size_t row_bytes() const { return quantized_ ? k_ / kGroup * sizeof(ActivationGroup) : k_ * sizeof(float); }
    friend void prepare(Activations&, const float*, ptrdiff_t, int, int);
    friend void copy_row(Activations&, int, const Activations&, int);
    friend void linear_chunk(const PackedMatrix&, const Activations&, int, int, int, int, float*, ptrdiff_t, Write);
    const LinearKernels* kernels_ = nullptr;
    int rows_ = 0, k_ = 0;
    bool quantized_ = false;
    Rounding rounding_ = Rounding::Fine;
    AlignedBytes memory_;
};

// Fill rows row0..row1 from x, where row r starts at x + r * ldx. Distinct rows may be prepared at the same time.
// A group with an infinite or NaN input becomes NaN; one whose largest input is below 1e-30 becomes zero.
void prepare(Activations& activations, const float* x, ptrdiff_t ldx, int row0, int row1);

// Row `from_row` of `from`, as it was prepared, becomes row `row` of `to`, which was resized to the same inputs and form.
void copy_row(Activations& to, int row, const Activations& from, int from_row);

// Rows m0..m1 and outputs n0..n1 of the product, to (or added to) y[m * ldy + n]. n0 is a multiple of 16, and so is
// n1 unless it is w.n(). One thread.
void linear_chunk(const PackedMatrix& w, const Activations& x, int m0, int m1, int n0, int n1, float* y, ptrdiff_t ldy,
                  Write write = Write::Store);

// The same of dense weights and float rows where they lie, x [m][k]; they need not be prepared.
void dense_chunk(const PackedMatrix& w, const float* x, int m0, int m1, int n0, int n1, float* y, ptrdiff_t ldy,
                 Write write = Write::Store);

// How a product is cut into chunks for a pool.
struct Tiling {
    int rows, n;
    int row_step, n_step;
    int row_tiles, n_tiles;

    struct Tile {
        int m0, m1, n0, n1;
    };
    int chunks() const { return row_tiles * n_tiles; }
    // Neighbouring chunks share outputs (weights), not rows.
    Tile at(int chunk) const;
};
Tiling tile(const PackedMatrix& w, int rows, int threads);

class Pool;
// The whole of it on the pool: x [rows][k], contiguous, to y [rows][n].
void linear(Pool& pool, const PackedMatrix& w, Rounding rounding, Activations& scratch, const float* x, int rows,
            float* y);

}  // namespace russet
