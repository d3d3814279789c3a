#include "attention.h"

#include <algorithm>
#include <limits>

#include "pool.h"
#include "vector_kernels.h"

namespace russet {

namespace {

constexpr int kTileKeys = 256;     // a tile's K and V stay in the L1 and L2 caches while the queries pass over it
constexpr int kItemQueries = 24;   // queries of one item: enough to share loads, few enough to leave items to spare
constexpr int kUnitsPerThread = 3;

int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace

Attention::Attention(int heads, const SlabShape& shape, float scale)
    : group_(heads / shape.kv_heads),
      dim_(ceil_div(shape.head_dim, KvSlab::kBlock) * KvSlab::kBlock),
      head_dim_(shape.head_dim),
      kv_heads_(shape.kv_heads),
      page_size_(shape.page_size),
      tile_pages_(std::max(1, kTileKeys / shape.page_size)),
      tile_keys_(tile_pages_ * shape.page_size),
      scale_(scale) {}

void Attention::plan(const std::vector<BatchRow>& rows, int threads) {
    items_.clear(), units_.clear(), split_items_.clear();
    const int tokens_per_item = std::max(1, kItemQueries / group_);
    int64_t tiles = 0;
    for (const BatchRow& row : rows) {
        for (int token = 0; token < row.tokens; token += tokens_per_item) {
            int count = std::min(tokens_per_item, row.tokens - token);
            int keys = row.length + token + count;
            for (int head = 0; head < kv_heads_; ++head) items_.push_back({row, head, token, count, keys, -1});
            tiles += static_cast<int64_t>(ceil_div(keys, tile_keys_)) * kv_heads_;
        }
    }
    // Long rows are cut into several units, so that few rows still keep all threads busy to the end.
    const int64_t most_tiles = std::max<int64_t>(1, tiles / (threads * kUnitsPerThread));
    int slots = 0;
    for (int i = 0; i < static_cast<int>(items_.size()); ++i) {
        int count = ceil_div(items_[i].keys, tile_keys_);
        int step = threads > 1 && count > most_tiles ? static_cast<int>(most_tiles) : count;
        for (int tile = 0; tile < count; tile += step) units_.push_back({i, tile, std::min(step, count - tile)});
        if (step < count) {
            items_[i].slot = slots;
            slots += count;
            split_items_.push_back(i);
        }
    }
    std::stable_sort(units_.begin(), units_.end(), [&](const Unit& a, const Unit& b) { return a.tiles > b.tiles; });
    partials_.resize(static_cast<size_t>(slots) * tokens_per_item * group_ * (dim_ + 2));
}

Attention::Scratch& Attention::scratch() const {
    static thread_local Scratch scratch;
    size_t queries = static_cast<size_t>(std::max(1, kItemQueries / group_)) * group_;
    scratch.q.resize(queries * dim_);
    scratch.partial.resize(queries * (dim_ + 2));
    scratch.merged.resize(queries * (dim_ + 2));
    scratch.stride = ceil_div(tile_keys_, KvSlab::kBlock) * KvSlab::kBlock + 2 * KvSlab::kBlock;
    scratch.scores.resize(6 * scratch.stride);
    scratch.visible.resize(queries);
    scratch.blocks.resize(tile_pages_ * ceil_div(page_size_, KvSlab::kBlock));
    return scratch;
}

void Attention::tile(const KvSlab& slab, int layer, const Item& item, int tile, Scratch& scratch,
                     const Partial& partial) const {
    // Queries stand token by token; those whose position lies before the tile see nothing of it.
    const int begin = tile * tile_keys_, keys = std::min(item.keys - begin, tile_keys_);
    const int first_position = item.row.length + item.token;
    const int skipped = std::max(0, begin - first_position);
    for (int t = skipped; t < item.tokens; ++t)
        for (int g = 0; g < group_; ++g)
            scratch.visible[t * group_ + g] = std::min(first_position + t + 1 - begin, keys);

    int blocks = 0;
    for (int offset = 0; offset < keys;) {
        int page = item.row.pages[(begin + offset) / page_size_];
        const uint16_t* page_keys = slab.keys(page, layer, item.head);
        const uint16_t* page_values = slab.values(page, layer, item.head);
        int in_page = std::min(page_size_, keys - offset);
        for (int slot = 0; slot < in_page; slot += KvSlab::kBlock) {
            scratch.blocks[blocks++] = {page_keys + slot * dim_, page_values + slot * dim_, offset + slot,
                                        std::min(KvSlab::kBlock, in_page - slot)};
        }
        offset += in_page;
    }
    const int first = skipped * group_, queries = item.tokens * group_ - first;
    vector_kernels().attend_tile({scratch.blocks.data(), blocks, keys, dim_, queries, scratch.q.data() + first * dim_,
                                  scratch.visible.data() + first, scratch.scores.data(), scratch.stride,
                                  partial.out + first * dim_, partial.maxima + first, partial.sums + first});
}

void Attention::merge(const Item& item, int tile, const Partial& partial, const Partial& merged) const {
    const int skipped = std::max(0, tile * tile_keys_ - item.row.length - item.token);
    const int first = skipped * group_, queries = item.tokens * group_ - first;
    vector_kernels().merge_tile(queries, dim_, partial.out + first * dim_, partial.maxima + first, partial.sums + first,
                                merged.out + first * dim_, merged.maxima + first, merged.sums + first);
}

void Attention::load_queries(const Item& item, const float* q, int stride, float* packed) const {
    for (int t = 0; t < item.tokens; ++t) {
        const float* token = q + static_cast<size_t>(item.row.first_token + item.token + t) * stride;
        for (int g = 0; g < group_; ++g, packed += dim_) {
            const float* head = token + (item.head * group_ + g) * head_dim_;
            for (int d = 0; d < head_dim_; ++d) packed[d] = head[d] * scale_;
            std::fill(packed + head_dim_, packed + dim_, 0.0f);
        }
    }
}

void Attention::store_queries(const Item& item, const Partial& merged, float* out, int stride) const {
    for (int t = 0; t < item.tokens; ++t) {
        float* token = out + static_cast<size_t>(item.row.first_token + item.token + t) * stride;
        for (int g = 0; g < group_; ++g) {
            int query = t * group_ + g;
            float scale = 1.0f / merged.sums[query];
            float* head = token + (item.head * group_ + g) * head_dim_;
            for (int d = 0; d < head_dim_; ++d) head[d] = merged.out[query * dim_ + d] * scale;
        }
    }
}

Attention::Partial Attention::partial_in(float* memory) const {
    int queries = std::max(1, kItemQueries / group_) * group_;
    return {memory, memory + queries * dim_, memory + queries * (dim_ + 1)};
}

Attention::Partial Attention::fresh(float* memory) const {
    int queries = std::max(1, kItemQueries / group_) * group_;
    Partial partial = partial_in(memory);
    std::fill(partial.out, partial.out + queries * dim_, 0.0f);
    std::fill(partial.maxima, partial.maxima + queries, -std::numeric_limits<float>::infinity());
    std::fill(partial.sums, partial.sums + queries, 0.0f);
    return partial;
}

void Attention::run(Pool& pool, const KvSlab& slab, int layer, const float* q, int q_stride, float* out,
                    int out_stride) {
    const size_t partial_values = static_cast<size_t>(std::max(1, kItemQueries / group_)) * group_ * (dim_ + 2);
    pool.run(static_cast<int>(units_.size()), [&](int chunk) {
        const Unit& unit = units_[chunk];
        const Item& item = items_[unit.item];
        Scratch& s = scratch();
        load_queries(item, q, q_stride, s.q.data());
        if (item.slot >= 0) {
            for (int i = unit.tile; i < unit.tile + unit.tiles; ++i)
                tile(slab, layer, item, i, s, partial_in(partials_.data() + (item.slot + i) * partial_values));
            return;
        }
        Partial merged = fresh(s.merged.data()), partial = partial_in(s.partial.data());
        for (int i = unit.tile; i < unit.tile + unit.tiles; ++i) {
            tile(slab, layer, item, i, s, partial);
            merge(item, i, partial, merged);
        }
        store_queries(item, merged, out, out_stride);
    });
    if (split_items_.empty()) return;
    pool.run(static_cast<int>(split_items_.size()), [&](int chunk) {
        const Item& item = items_[split_items_[chunk]];
        Partial merged = fresh(scratch().merged.data());
        for (int i = 0; i < ceil_div(item.keys, tile_keys_); ++i)
            merge(item, i, partial_in(partials_.data() + (item.slot + i) * partial_values), merged);
        store_queries(item, merged, out, out_stride);
    });
}

}  // namespace russet
