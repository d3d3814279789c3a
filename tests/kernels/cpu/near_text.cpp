// The sentence encoder's kernels of NEON beside the portable ones: nearly the same numbers, and none written out of
// place. A program of its own, as near_kv.cpp is. Where something differs it says what and ends with 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "vector_kernels.h"

using namespace russet;

namespace {

std::mt19937 random_bits(21);

std::vector<float> normal(size_t n) {
    std::vector<float> values(n);
    for (float& x : values) x = std::normal_distribution<float>()(random_bits);
    return values;
}

bool near(const std::vector<float>& a, const std::vector<float>& b) {
    for (size_t i = 0; i < a.size(); ++i) {
        if (!(std::fabs(a[i] - b[i]) <= 2e-5f * (1.0f + std::fabs(a[i])))) return false;
    }
    return a.size() == b.size();
}

bool near_rows(int n) {
    const std::vector<float> x = normal(n), y = normal(n), w = normal(n), b = normal(n);
    std::vector<float> one(n), other(n), bent = x, bent_too = x;
    kScalarKernels.layer_norm(x.data(), y.data(), w.data(), b.data(), 1e-5f, n, one.data());
    kNeonKernels.layer_norm(x.data(), y.data(), w.data(), b.data(), 1e-5f, n, other.data());
    kScalarKernels.bias_gelu(bent.data(), y.data(), n);
    kNeonKernels.bias_gelu(bent_too.data(), y.data(), n);
    return near(one, other) && near(bent, bent_too);
}

std::vector<float> attended(const VectorKernels& kernels, const std::vector<float>& qkv, int tokens, int heads,
                            int dim) {
    const int padded = (tokens + 15) / 16 * 16, wide = (dim + 15) / 16 * 16, hidden = heads * dim;
    std::vector<float> keys(dim * padded), values(tokens * wide), scores(kTextQueries * padded), out(tokens * hidden);
    for (int head = heads - 1; head >= 0; --head) {  // the last first: a head that writes past itself spoils it
        const float* q = qkv.data() + head * dim;
        kernels.attend_text({q, q + hidden, q + 2 * hidden, 3 * hidden, tokens, dim, 0.3f, keys.data(), padded,
                             values.data(), wide, scores.data(), out.data() + head * dim, hidden});
    }
    return out;
}

}  // namespace

int main() {
    bool good = true;
    for (int n : {1, 3, 4, 17, 384}) {
        if (near_rows(n)) continue;
        std::printf("rows of %d differ\n", n);
        good = false;
    }
    for (int dim : {10, 32, 64}) {
        for (int tokens : {1, 5, 6, 16, 17, 100}) {
            const std::vector<float> qkv = normal(static_cast<size_t>(tokens) * 9 * dim);
            const std::vector<float> one = attended(kScalarKernels, qkv, tokens, 3, dim);
            if (near(one, attended(kNeonKernels, qkv, tokens, 3, dim))) continue;
            std::printf("heads of %d over %d tokens differ\n", dim, tokens);
            good = false;
        }
    }
    return good ? 0 : 1;
}
