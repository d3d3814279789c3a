#include "batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace russet {

namespace {

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

std::string text(int64_t value) { return std::to_string(value); }

void check_ascending(const std::string& name, std::span<const int32_t> at, int64_t tokens) {
    for (size_t i = 0; i < at.size(); ++i) {
        if (at[i] >= 0 && at[i] < tokens && (i == 0 || at[i] > at[i - 1])) continue;
        reject(name + "[" + text(i) + "] is " + text(at[i]) + "; it must ascend within 0.." + text(tokens - 1));
    }
}

}  // namespace

void check_rows(const BatchRows& b, int64_t tokens, int context_length, const SlabShape& slab) {
    const int64_t rows = b.lengths.size();
    if (rows < 1) reject("the batch has no rows");
    if (static_cast<int64_t>(b.row_starts.size()) != rows + 1) {
        reject("row_starts has " + text(b.row_starts.size()) + " entries; " + text(rows) + " rows want " +
               text(rows + 1));
    }
    if (static_cast<int64_t>(b.page_table.size()) != rows * b.page_columns) {
        reject("page_table has " + text(b.page_table.size()) + " entries; " + text(rows) + " rows of " +
               text(b.page_columns) + " pages want " + text(rows * b.page_columns));
    }
    if (b.row_starts.front() != 0 || b.row_starts.back() != tokens) {
        reject("row_starts runs from " + text(b.row_starts.front()) + " to " + text(b.row_starts.back()) +
               "; it must run from 0 to " + text(tokens) + ", the number of tokens");
    }
    if (!b.parents.empty() && static_cast<int64_t>(b.parents.size()) != tokens) {
        reject("parents has " + text(b.parents.size()) + " entries; there are " + text(tokens) + " tokens");
    }
    std::vector<int32_t> written;
    const int page_ids = slab.page_ids();
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t count = static_cast<int64_t>(b.row_starts[r + 1]) - b.row_starts[r], length = b.lengths[r];
        if (count < 1) reject("row " + text(r) + " brings " + text(count) + " tokens; it must bring at least one");
        if (length < 0) reject("lengths[" + text(r) + "] is " + text(length) + "; it must be at least 0");
        if (length + count > context_length) {
            reject("row " + text(r) + " would have " + text(length + count) + " tokens; the context holds " +
                   text(context_length));
        }
        for (int64_t t = 0; t < count && !b.parents.empty(); ++t) {
            const int64_t at = b.row_starts[r] + t, parent = b.parents[at];
            if (parent >= -1 && parent < t) continue;
            reject("parents[" + text(at) + "] is " + text(parent) + "; token " + text(t) + " of a row accepts -1.." +
                   text(t - 1));
        }
        const int64_t pages = (length + count + slab.page_size - 1) / slab.page_size;
        if (pages > b.page_columns) {
            reject("row " + text(r) + " needs " + text(pages) + " pages; its page table has " + text(b.page_columns));
        }
        for (int64_t p = 0; p < pages; ++p) {
            const int32_t page = b.page_table[r * b.page_columns + p];
            if (page < 0 || page >= page_ids) {
                reject("page_table[" + text(r) + ", " + text(p) + "] is " + text(page) + "; the slab has pages 0.." +
                       text(page_ids - 1));
            }
            if (p < length / slab.page_size) continue;
            if (page >= slab.pages) {
                reject("page_table[" + text(r) + ", " + text(p) + "] is " + text(page) +
                       ", a packed page, which is not written; tokens " + text(length) + ".. of the row want pages 0.." +
                       text(slab.pages - 1));
            }
            written.push_back(page);
        }
    }
    std::sort(written.begin(), written.end());
    if (auto twice = std::adjacent_find(written.begin(), written.end()); twice != written.end()) {
        reject("page " + text(*twice) + " is written at two places of the batch; a written page belongs to one row");
    }
}

void check_batch(const DecoderBatch& b, const BatchLimits& limits, const SlabShape& slab) {
    const int64_t tokens = b.tokens.size();
    if (tokens > limits.max_step_tokens) {
        reject("the batch has " + text(tokens) + " tokens; max_step_tokens is " + text(limits.max_step_tokens));
    }
    check_rows(b.rows, tokens, limits.context_length, slab);
    for (int64_t t = 0; t < tokens; ++t) {
        if (b.tokens[t] < 0 || b.tokens[t] >= limits.vocab) {
            reject("tokens[" + text(t) + "] is " + text(b.tokens[t]) + "; the vocabulary is 0.." +
                   text(limits.vocab - 1));
        }
    }
    check_ascending("logits_at", b.logits_at, tokens);
    check_ascending("hidden.at", b.hidden_at, tokens);
}

std::vector<BatchRow> split_rows(const BatchRows& rows) {
    std::vector<BatchRow> out;
    for (size_t r = 0; r < rows.lengths.size(); ++r) {
        const int first = rows.row_starts[r], count = rows.row_starts[r + 1] - first;
        BatchRow row{rows.page_table.data() + r * rows.page_columns, rows.lengths[r], count, first};
        if (!rows.parents.empty()) row.parents = rows.parents.data() + first;
        int chained = 0;
        while (row.parents != nullptr && chained < count && row.parents[chained] == chained - 1) ++chained;
        if (chained == count) row.parents = nullptr;
        out.push_back(row);
    }
    return out;
}

}  // namespace russet
