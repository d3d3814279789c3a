// What one forward computes, and whether that is possible.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "slab.h"

namespace russet {

// Rows of queries over the slab: the part of kernels/decoder.py's Batch that attention needs.
struct BatchRows {
    std::span<const int32_t> row_starts;  // [rows + 1]
    std::span<const int32_t> lengths;     // [rows], tokens already in the slab
    std::span<const int32_t> page_table;  // [rows][page_columns]
    int page_columns;
    std::span<const int32_t> parents = {};  // [tokens]; empty: every token follows the one before it in its row
};

// kernels/decoder.py: Batch, with its meaning.
struct DecoderBatch {
    std::span<const int32_t> tokens;
    BatchRows rows;
    std::span<const int32_t> logits_at;
    // HiddenStates: of which tokens, and [hidden_at.size()][hidden] for them.
    std::span<const int32_t> hidden_at = {};
    float* hidden = nullptr;
};

struct BatchLimits {
    int vocab, context_length, max_step_tokens;
};

// One row: `tokens` queries, whose keys go into its slots length, length + 1, ...
struct BatchRow {
    const int32_t* pages;  // page ids by slot / page_size
    int length;
    int tokens;
    int first_token;  // index of its first query among the batch's tokens
    const int32_t* parents = nullptr;  // [tokens], -1: none; null where each follows the one before it

    // How many of the row's tokens come before this one in its text: it stands at position length + depth.
    int depth(int token) const {
        if (parents == nullptr) return token;
        int above = 0;
        while ((token = parents[token]) >= 0) ++above;
        return above;
    }
};

// Each throws std::invalid_argument naming the first offending value and what would be accepted. A batch that passes
// stays inside the slab, and no two of its tokens are written to one slot.
void check_rows(const BatchRows& rows, int64_t tokens, int context_length, const SlabShape& slab);
void check_batch(const DecoderBatch& batch, const BatchLimits& limits, const SlabShape& slab);

// The rows of a batch that has been checked.
std::vector<BatchRow> split_rows(const BatchRows& rows);

}  // namespace russet
