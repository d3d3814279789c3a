// Every instruction set of this processor against the portable kernels, bit for bit: a program of its own, so that it
// can be built for another architecture and run under an emulator (test_arm64.py). Prints the instruction sets that it
// compared, fastest first; where one differs it says how and ends with 1.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "half.h"
#include "isa.h"
#include "linear_kernels.h"

using namespace russet;

namespace {

std::mt19937 random_bits(20);

float between(float least, float most) { return std::uniform_real_distribution<float>(least, most)(random_bits); }

const LinearKernels& kernels_of(Isa isa) {
    switch (isa) {
#if defined(__aarch64__)
        case Isa::Neon:
            return linear_kernels_neon();
        case Isa::NeonDotprod:
            return linear_kernels_neon_dotprod();
        case Isa::NeonI8mm:
            return linear_kernels_neon_i8mm();
#endif
        default:
            return linear_kernels_scalar();
    }
}

struct Matrix {
    PackedView view{};
    std::vector<uint8_t> values, scales;
};

void append(std::vector<uint8_t>& bytes, float value, ScaleType type) {
    uint32_t bits = std::bit_cast<uint32_t>(value);
    if (type == ScaleType::Float16) bits = to_float16(value);
    if (type == ScaleType::Bfloat16) bits >>= 16;
    const auto* at = reinterpret_cast<const uint8_t*>(&bits);
    bytes.insert(bytes.end(), at, at + (type == ScaleType::Float32 ? 4 : 2));
}

Matrix random_matrix(Format format, ScaleType type, bool symmetric, int groups_per_scale, int n, int k) {
    Matrix matrix;
    PackedView& w = matrix.view;
    w.n = n;
    w.k = k;
    w.blocks = (n + kBlock - 1) / kBlock;
    w.format = format;
    w.scale_type = type;
    w.symmetric = symmetric;
    w.groups_per_scale = groups_per_scale;
    if (w.quantized()) {
        matrix.values.resize(w.blocks * w.block_bytes());
        for (uint8_t& byte : matrix.values) byte = static_cast<uint8_t>(random_bits());
        const size_t scale_bytes = w.blocks * w.block_scale_bytes();
        while (matrix.scales.size() < scale_bytes) append(matrix.scales, between(-0.1f, 0.1f), type);
    } else {
        const ScaleType element = format == Format::Float32    ? ScaleType::Float32
                                  : format == Format::Bfloat16 ? ScaleType::Bfloat16
                                                               : ScaleType::Float16;
        while (matrix.values.size() < w.blocks * w.block_bytes()) append(matrix.values, between(-1, 1), element);
    }
    w.values = matrix.values.data();
    w.scales = matrix.scales.data();
    return matrix;
}

// Rows of which some groups are far above the others: fine among coarse ones, where rounding is mixed.
std::vector<float> random_rows(int rows, int k) {
    std::vector<float> x(static_cast<size_t>(rows) * k);
    for (float& value : x) value = between(-1, 1) * (random_bits() % 100 == 0 ? 20.0f : 1.0f);
    return x;
}

std::vector<float> product(const LinearKernels& kernels, const Matrix& w, const std::vector<float>& x, int rows,
                           Rounding rounding) {
    const int k = w.view.k;
    std::vector<ActivationGroup> groups(static_cast<size_t>(rows) * k / kGroup);
    if (w.view.quantized()) {
        for (int m = 0; m < rows; ++m) kernels.quantize(&x[m * k], k, rounding, &groups[m * k / kGroup]);
    }
    std::vector<float> y(static_cast<size_t>(rows) * w.view.n, 0.25f);
    const ActivationsView view{rows, k, groups.data(), x.data()};
    kernels.multiply(w.view, view, 0, rows, 0, w.view.blocks, y.data(), w.view.n, Write::Store);
    kernels.multiply(w.view, view, 0, rows, w.view.blocks - 1, w.view.blocks, y.data(), w.view.n, Write::Add);
    return y;
}

bool same_as_scalar(Isa isa, const Matrix& w) {
    for (int rows : {1, 2, 3, 4, 5, 7}) {
        const std::vector<float> x = random_rows(rows, w.view.k);
        for (Rounding rounding : {Rounding::Fine, Rounding::Mixed}) {
            const auto wanted = product(linear_kernels_scalar(), w, x, rows, rounding);
            const auto got = product(kernels_of(isa), w, x, rows, rounding);
            if (std::memcmp(wanted.data(), got.data(), sizeof(float) * got.size()) == 0) continue;
            std::printf("%s differs: format %d, scales %d, symmetric %d, %d groups to a scale, %d rows, rounding %d\n",
                        name(isa), static_cast<int>(w.view.format), static_cast<int>(w.view.scale_type),
                        w.view.symmetric, w.view.groups_per_scale, rows, static_cast<int>(rounding));
            return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    std::vector<Matrix> matrices;
    for (Format format : {Format::Affine4, Format::Affine8}) {
        for (ScaleType type : {ScaleType::Float32, ScaleType::Bfloat16, ScaleType::Float16}) {
            for (bool symmetric : {false, true}) {
                for (int groups : {1, 2, 4}) {
                    matrices.push_back(random_matrix(format, type, symmetric, groups, 37, 128));
                }
            }
        }
    }
    for (Format format : {Format::Float32, Format::Bfloat16, Format::Float16}) {
        matrices.push_back(random_matrix(format, ScaleType::Float32, false, 1, 37, 70));
    }
    for (Isa isa : supported(false)) {
        for (const Matrix& w : matrices) {
            if (!same_as_scalar(isa, w)) return 1;
        }
        std::printf("%s\n", name(isa));
    }
    return 0;
}
