// The KV kernels of NEON against the portable ones: the same packed bytes, nearly the same attention. A program of its
// own, so that it can be built for another architecture and run under an emulator (test_arm64.py). Where something
// differs it says what and ends with 1.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "half.h"
#include "vector_kernels.h"

using namespace russet;

namespace {

std::mt19937 random_bits(21);

float normal() { return std::normal_distribution<float>()(random_bits); }

// 64 tokens of one kv head.
struct Tokens {
    std::vector<uint16_t> keys, values;

    explicit Tokens(int dim) : keys(64 * dim), values(64 * dim) {
        for (uint16_t& x : keys) x = to_float16(normal() + 3.0f);
        for (uint16_t& x : values) x = to_float16(normal());
    }
    HalfTokens halves(int dim) const {
        HalfTokens all;
        for (int q = 0; q < kQuarters; ++q) all.keys[q] = &keys[q * 16 * dim], all.values[q] = &values[q * 16 * dim];
        return all;
    }
};

struct Packed {
    std::vector<uint32_t> codes;
    std::vector<uint16_t> scales;
    PackedTokens view;

    Packed(int dim, int bits) : codes(4 * dim * bits), scales(2 * dim + 4 * 32) {
        const int size = dim * bits / 2;  // words of 16 x dim codes
        view.key_scales = scales.data();
        for (int q = 0; q < kQuarters; ++q) {
            view.keys[q] = &codes[2 * q * size], view.values[q] = &codes[(2 * q + 1) * size];
            view.value_scales[q] = &scales[2 * dim + 32 * q];
        }
    }
};

bool same_packing(int head_dim, int dim, int bits) {
    const Tokens tokens(dim);
    const HalfTokens halves = tokens.halves(dim);
    Packed one(dim, bits), other(dim, bits);
    kScalarKernels.pack(halves, head_dim, dim, bits, one.view);
    kNeonKernels.pack(halves, head_dim, dim, bits, other.view);
    if (one.codes != other.codes || one.scales != other.scales) return false;
    std::vector<uint16_t> a(32 * dim), b(32 * dim);
    kScalarKernels.unpack(one.view, 2, head_dim, dim, bits, a.data(), a.data() + 16 * dim);
    kNeonKernels.unpack(one.view, 2, head_dim, dim, bits, b.data(), b.data() + 16 * dim);
    return a == b;
}

bool near_attention(int dim, int queries, bool branches) {
    const Tokens half(dim);
    const HalfTokens halves = half.halves(dim);
    std::vector<Packed> packed;
    std::vector<KeyBlock> blocks;
    int keys = 0;
    for (int bits : {8, 4, 2}) {
        packed.emplace_back(dim, bits);
        const PackedTokens& to = packed.back().view;
        kScalarKernels.pack(Tokens(dim).halves(dim), dim, dim, bits, to);
        for (int q = 0; q < (bits == 4 ? 3 : 4); ++q, keys += 16) {
            blocks.push_back({to.keys[q], to.values[q], to.key_scales, to.value_scales[q], keys, 16, bits});
        }
    }
    for (int q = 0; q < 2; ++q, keys += 16) {
        blocks.push_back({halves.keys[q], halves.values[q], nullptr, nullptr, keys, 16, 16});
    }
    const int count = static_cast<int>(blocks.size()), stride = keys + 32;
    blocks.resize(count + kBlocksAhead, blocks.back());
    std::vector<float> q(queries * dim), scores(6 * stride), scaled(6 * dim), results[2];
    std::vector<int> visible;
    const int trunk = keys - 32;
    std::vector<std::vector<int>> offsets(queries);
    std::vector<const int*> paths;
    for (float& x : q) x = normal() / std::sqrt(static_cast<float>(dim));
    for (int i = 0; i < queries; ++i) {
        for (int key = trunk + i % 3; key < keys; key += 2 + i % 2) offsets[i].push_back(key);
        paths.push_back(offsets[i].data());
        visible.push_back(branches ? trunk + static_cast<int>(offsets[i].size()) : keys - 5 * (queries - 1 - i));
    }
    for (int i = 0; i < 2; ++i) {
        std::vector<float>& out = results[i];
        out.resize(queries * (dim + 2));
        const auto attend = i == 0 ? kScalarKernels.attend_tile : kNeonKernels.attend_tile;
        attend({blocks.data(), count, keys, dim, queries, q.data(), visible.data(), scores.data(), scaled.data(), stride,
                branches ? paths.data() : nullptr, trunk, out.data(), out.data() + queries * dim,
                out.data() + queries * (dim + 1)});
    }
    for (size_t i = 0; i < results[0].size(); ++i) {
        if (std::abs(results[0][i] - results[1][i]) > 1e-4f * (1 + std::abs(results[0][i]))) return false;
    }
    return true;
}

}  // namespace

int main() {
    for (int bits : {8, 4, 2}) {
        for (int head_dim : {16, 24, 64, 80}) {
            const int dim = (head_dim + 15) / 16 * 16;
            if (same_packing(head_dim, dim, bits)) continue;
            std::printf("%d bits, head_dim %d: packed otherwise\n", bits, head_dim);
            return 1;
        }
    }
    for (int dim : {16, 64, 80}) {
        for (int queries : {1, 2, 3, 4, 5, 6, 9}) {
            if (near_attention(dim, queries, false) && near_attention(dim, queries, true)) continue;
            std::printf("dim %d, %d queries: attends otherwise\n", dim, queries);
            return 1;
        }
    }
    return 0;
}
