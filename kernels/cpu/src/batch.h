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
};

// kernels/decoder.py: Batch, with its meaning.
struct DecoderBatch {
    std::span<const int32_t> tokens;
    BatchRows rows;
    std::span<const int32_t> logits_at;
};

struct BatchLimits {
    int vocab, context_length, max_step_tokens;
};

// One row: `tokens` queries at positions length, length + 1, ...
struct BatchRow {
    const int32_t* pages;  // page ids by position / page_size
    int length;
    int tokens;
    int first_token;  // index of its first query among the batch's tokens
};

// Each throws std::invalid_argument naming the first offending value and what would be accepted. A batch that passes
// stays inside the slab, and no two of its tokens are written to one slot.
void check_rows(const BatchRows& rows, int64_t tokens, int context_length, const SlabShape& slab);
void check_batch(const DecoderBatch& batch, const BatchLimits& limits, const SlabShape& slab);

// The rows of a batch that has been checked.
std::vector<BatchRow> split_rows(const BatchRows& rows);

}  // namespace russet
