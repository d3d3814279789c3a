#include "attention.h"

#include <algorithm>
#include <limits>

#include "pool.h"
#include "vector_kernels.h"

namespace russet {

namespace {

constexpr int kTileKeys = 256;    // a tile's K and V stay in the L1 and L2 caches while the queries pass over it
constexpr int kItemQueries = 24;  // queries of one item: enough to share loads, few enough to leave items to spare
constexpr int kLeastShare = 16;   // a unit is not less than 1 / (threads * this) of the work: units have a start
constexpr int kBlock = KvSlab::kBlock;

int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace

Attention::Attention(int heads, const SlabShape& shape, float scale)
    : group_(heads / shape.kv_heads),
      dim_(ceil_div(shape.head_dim, kBlock) * kBlock),
      head_dim_(shape.head_dim),
      kv_heads_(shape.kv_heads),
      page_size_(shape.page_size),
      tile_pages_(std::max(1, kTileKeys / shape.page_size)),
      tile_keys_(tile_pages_ * shape.page_size),
      item_tokens_(std::max(1, kItemQueries / group_)),
      partial_floats_(static_cast<size_t>(item_tokens_) * group_ * (dim_ + 2)),
      scale_(scale) {}

int Attention::tiles(const Item& item) const { return ceil_div(item.keys, tile_keys_); }

// Whether keys of the item's own row, which not all its queries see, are in the tile.
bool Attention::branches(const Item& item, int tile) const {
    return item.row.parents != nullptr && (tile + 1) * tile_keys_ > item.row.length;
}

// How many keys of the tile are from before a row that branches.
int Attention::trunk(const Item& item, int tile) const { return std::max(0, item.row.length - tile * tile_keys_); }

int Attention::keys_in(const Item& item, int tile) const {
    if (branches(item, tile)) return item.row.length + item.token + item.tokens - tile * tile_keys_;
    return std::min(item.keys - tile * tile_keys_, tile_keys_);
}

Attention::Place Attention::after(Place place) const {
    return place.tile + 1 < tiles(items_[place.item]) ? Place{place.item, place.tile + 1} : Place{place.item + 1, 0};
}

void Attention::plan(const std::vector<BatchRow>& rows, int threads) {
    items_.clear();
    most_keys_ = tile_keys_;
    int64_t total = 0;
    for (const BatchRow& row : rows) {
        for (int token = 0; token < row.tokens; token += item_tokens_) {
            int count = std::min(item_tokens_, row.tokens - token);
            int deepest = 0;
            for (int t = token; t < token + count; ++t) deepest = std::max(deepest, row.depth(t));
            const int keys = row.length + deepest + 1;
            for (int head = 0; head < kv_heads_; ++head) items_.push_back({row, head, token, count, keys, -1});
            int64_t looks = 0;
            for (int tile = 0; tile < tiles(items_.back()); ++tile) {
                looks += keys_in(items_.back(), tile);
                most_keys_ = std::max(most_keys_, keys_in(items_.back(), tile));
            }
            total += looks * count * kv_heads_;
        }
    }
    cut(threads, total);
    int slots = 0;
    for (int i : split_items_) {
        items_[i].slot = slots;
        slots += tiles(items_[i]);
    }
    partials_.resize(slots * partial_floats_);
}

// Large units first and ever smaller ones: few starts, and yet all threads end together, whatever else they do. Unlike
// a cut by items this serves few long rows as well as many short ones.
void Attention::cut(int threads, int64_t total) {
    units_.clear(), split_items_.clear();
    const int64_t least = std::max<int64_t>(1, total / (threads * kLeastShare));
    int64_t left = total;
    for (Place place{0, 0}; place.item < static_cast<int>(items_.size());) {
        const int64_t share = threads == 1 ? left : std::max(least, left / (2 * threads));
        Unit unit{place, 0};
        for (int64_t cost = 0; cost < share && place.item < static_cast<int>(items_.size()); place = after(place)) {
            const Item& item = items_[place.item];
            const int64_t more = static_cast<int64_t>(keys_in(item, place.tile)) * item.tokens;
            cost += more, left -= more, ++unit.tiles;
        }
        units_.push_back(unit);
        if (place.tile > 0 && (split_items_.empty() || split_items_.back() != place.item)) {
            split_items_.push_back(place.item);
        }
    }
}

Attention::Scratch& Attention::scratch() const {
    static thread_local Scratch scratch;
    const int queries = item_tokens_ * group_;
    scratch.q.resize(queries * dim_);
    scratch.partial.resize(partial_floats_);
    scratch.merged.resize(partial_floats_);
    scratch.stride = ceil_div(most_keys_, kBlock) * kBlock + 2 * kBlock;
    scratch.scores.resize(6 * scratch.stride);
    scratch.scaled.resize(6 * dim_);
    scratch.visible.resize(queries);
    return scratch;
}

int Attention::blocks_in(Place place) const {
    const int keys = keys_in(items_[place.item], place.tile);
    return keys / page_size_ * ceil_div(page_size_, kBlock) + ceil_div(keys % page_size_, kBlock);
}

void Attention::list_blocks(const KvSlab& slab, int layer, Place place, std::vector<KeyBlock>& blocks) const {
    const Item& item = items_[place.item];
    const int keys = keys_in(item, place.tile);
    const int32_t* page = item.row.pages + place.tile * tile_pages_;
    for (int offset = 0; offset < keys; offset += page_size_, ++page) {
        if (!slab.is_half(*page)) {
            int quarter = 0;
            const PackedBlock block = slab.block(*page, layer, item.head, quarter);
            for (int slot = 0; slot < page_size_; slot += kBlock, ++quarter) {
                blocks.push_back({block.keys(quarter), block.values(quarter), block.key_scales(),
                                  block.value_scales(quarter), offset + slot, kBlock, block.bits});
            }
            continue;
        }
        const uint16_t* page_keys = slab.keys(*page, layer, item.head);
        const uint16_t* page_values = slab.values(*page, layer, item.head);
        const int in_page = std::min(page_size_, keys - offset);
        for (int slot = 0; slot < in_page; slot += kBlock) {
            blocks.push_back({page_keys + slot * dim_, page_values + slot * dim_, nullptr, nullptr, offset + slot,
                              std::min(kBlock, in_page - slot), 16});
        }
    }
}

// Queries stand token by token; those whose position lies before the tile see nothing of it. Where the row branches they
// need not come first, and are passed over one by one.
int Attention::blind_queries(Place place) const {
    const Item& item = items_[place.item];
    if (item.row.parents != nullptr) return 0;
    return std::max(0, place.tile * tile_keys_ - item.row.length - item.token) * group_;
}

void Attention::follow_paths(Place place, Scratch& s) const {
    const Item& item = items_[place.item];
    const BatchRow& row = item.row;
    const int begin = place.tile * tile_keys_, before = trunk(item, place.tile), most = tile_keys_ - before;
    s.offsets.resize(static_cast<size_t>(item_tokens_) * tile_keys_);
    s.paths.resize(static_cast<size_t>(item_tokens_) * group_);
    for (int t = 0; t < item.tokens; ++t) {
        int* path = s.offsets.data() + t * tile_keys_;
        const int last = row.length + row.depth(item.token + t) - begin - before;
        for (int i = last, token = item.token + t; i >= 0; --i, token = row.parents[token]) {
            if (i < most) path[i] = row.length + token - begin;
        }
        for (int query = t * group_; query < (t + 1) * group_; ++query) {
            s.visible[query] = std::clamp(before + last + 1, 0, tile_keys_);
            s.paths[query] = path;
        }
    }
}

void Attention::tile(Place place, const KeyBlock* blocks, Scratch& scratch, const Partial& partial) const {
    const Item& item = items_[place.item];
    const int keys = keys_in(item, place.tile), first = blind_queries(place), queries = item.tokens * group_ - first;
    const int first_sees = item.row.length + item.token + 1 - place.tile * tile_keys_;
    const bool paths = branches(item, place.tile);
    if (paths) {
        follow_paths(place, scratch);
    } else {
        for (int i = first; i < first + queries; ++i) scratch.visible[i] = std::min(first_sees + i / group_, keys);
    }
    vector_kernels().attend_tile({blocks, blocks_in(place), keys, dim_, queries, scratch.q.data() + first * dim_,
                                  scratch.visible.data() + first, scratch.scores.data(), scratch.scaled.data(),
                                  scratch.stride, paths ? scratch.paths.data() : nullptr, trunk(item, place.tile),
                                  partial.out + first * dim_, partial.maxima + first, partial.sums + first});
}

void Attention::merge(Place place, const Partial& partial, const Partial& merged) const {
    const int first = blind_queries(place), queries = items_[place.item].tokens * group_ - first;
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
    const int queries = item_tokens_ * group_;
    return {memory, memory + queries * dim_, memory + queries * (dim_ + 1)};
}

void Attention::clear(const Partial& partial) const {
    const int queries = item_tokens_ * group_;
    std::fill_n(partial.out, queries * dim_, 0.0f);
    std::fill_n(partial.maxima, queries, -std::numeric_limits<float>::infinity());
    std::fill_n(partial.sums, queries, 0.0f);
}

void Attention::run_unit(const Unit& unit, const Call& call) {
    Scratch& s = scratch();
    s.blocks.clear();
    int begin = 0, unlisted = unit.tiles;  // the tile's first block in s.blocks, and the tiles to come that lack there
    Place listing = unit.begin, place = unit.begin;
    const Partial merged = partial_in(s.merged.data());
    for (int i = 0; i < unit.tiles; ++i, place = after(place)) {
        const Item& item = items_[place.item];
        const size_t end = begin + blocks_in(place), wanted = end + kBlocksAhead;
        for (; unlisted > 0 && s.blocks.size() < wanted; --unlisted, listing = after(listing)) {
            list_blocks(call.slab, call.layer, listing, s.blocks);
        }
        if (s.blocks.size() < wanted) s.blocks.resize(wanted, s.blocks.back());
        if (place.tile == 0 || i == 0) load_queries(item, call.q, call.q_stride, s.q.data());
        const bool split = item.slot >= 0, alone = tiles(item) == 1;
        float* memory = split ? partials_.data() + (item.slot + place.tile) * partial_floats_ : s.partial.data();
        const Partial partial = partial_in(memory);
        tile(place, s.blocks.data() + begin, s, partial);
        begin = static_cast<int>(end);
        if (split) continue;
        if (!alone && place.tile == 0) clear(merged);
        if (!alone) merge(place, partial, merged);
        if (place.tile + 1 == tiles(item)) store_queries(item, alone ? partial : merged, call.out, call.out_stride);
    }
}

void Attention::run(Pool& pool, const KvSlab& slab, int layer, const float* q, int q_stride, float* out,
                    int out_stride) {
    const Call call{slab, layer, q, q_stride, out, out_stride};
    pool.run(static_cast<int>(units_.size()), [&](int i) { run_unit(units_[i], call); });
    pool.run(static_cast<int>(split_items_.size()), [&](int i) {
        const Item& item = items_[split_items_[i]];
        const Partial merged = partial_in(scratch().merged.data());
        clear(merged);
        for (int tile = 0; tile < tiles(item); ++tile) {
            merge({split_items_[i], tile}, partial_in(partials_.data() + (item.slot + tile) * partial_floats_), merged);
        }
        store_queries(item, merged, out, out_stride);
    });
}

}  // namespace russet
