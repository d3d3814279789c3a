// Paged attention with grouped queries, causal, over the slab; flash-style in tiles of pages.
//
// Invariance: the positions 0, 1, 2, ... of a row are cut into tiles of a fixed number of pages. A tile's partial
// result for one query (its maximum, its sum of exponentials, its weighted values) depends on that query and the keys
// it may see in the tile, and on nothing else; partials are merged in tile order. So a query's result is the same
// bits whether it was prefilled, decoded, batched or split over threads: how queries share loads and who computes
// which tile changes only the speed.
//
// Where a row branches, the keys of its tokens lie in slots of which those on other branches are passed over:
//
//     slots      ... history | a b c d e     parents of a..e: -1 0 0 1 2
//     e sees     ... history | a   c   e     at positions length, length + 1, length + 2
//
// A tile is still one of positions. Its keys are the history in it and all slots from there on, and each query takes
// from them those on its path: the numbers it would get from a row of these tokens alone, in the same order.
#pragma once

#include <cstdint>
#include <vector>

#include "batch.h"
#include "slab.h"
#include "vector_kernels.h"

namespace russet {

class Pool;

class Attention {
  public:
    // heads must be a multiple of shape.kv_heads.
    Attention(int heads, const SlabShape& shape, float scale);

    // Decides how the rows are cut into units of work; the same plan serves every layer of a forward.
    void plan(const std::vector<BatchRow>& rows, int threads);
    // q and out: [tokens][stride], heads side by side, each head_dim wide. Reads `layer` of the slab.
    void run(Pool& pool, const KvSlab& slab, int layer, const float* q, int q_stride, float* out, int out_stride);

  private:
    // Some queries of one row, for one kv head: they share every load of K and V.
    struct Item {
        BatchRow row;
        int head, token, tokens;  // token: the first one's place in the row
        int keys;                 // the farthest of its queries sees the positions 0..keys - 1
        int slot;                 // where its tiles' partials lie in partials_; -1 where one unit does all of it
    };
    // One tile of one item. The tiles of item 0 come first, then those of item 1, ...
    struct Place {
        int item, tile;
    };
    // Tiles that follow each other, perhaps of several items: what one thread does at a time.
    struct Unit {
        Place begin;
        int tiles;
    };
    struct Partial {
        float *out, *maxima, *sums;  // [queries][dim], [queries], [queries]
    };
    struct Call {  // of run
        const KvSlab& slab;
        int layer;
        const float* q;
        int q_stride;
        float* out;
        int out_stride;
    };
    struct Scratch {
        std::vector<float> q, scores, scaled, partial, merged;
        std::vector<int> visible, offsets;
        std::vector<const int*> paths;  // into offsets, by query
        std::vector<KeyBlock> blocks;  // of the tile in hand, then of those to come
        int stride;
    };

    int tiles(const Item& item) const;
    int keys_in(const Item& item, int tile) const;
    bool branches(const Item& item, int tile) const;
    int trunk(const Item& item, int tile) const;
    Place after(Place place) const;
    void cut(int threads, int64_t total);
    Scratch& scratch() const;
    Partial partial_in(float* memory) const;
    void clear(const Partial& partial) const;
    void load_queries(const Item& item, const float* q, int stride, float* packed) const;
    int blocks_in(Place place) const;
    void list_blocks(const KvSlab& slab, int layer, Place place, std::vector<KeyBlock>& blocks) const;
    int blind_queries(Place place) const;
    void follow_paths(Place place, Scratch& scratch) const;
    void tile(Place place, const KeyBlock* blocks, Scratch& scratch, const Partial& partial) const;
    void merge(Place place, const Partial& partial, const Partial& merged) const;
    void store_queries(const Item& item, const Partial& merged, float* out, int stride) const;
    void run_unit(const Unit& unit, const Call& call);

    int group_, dim_, head_dim_, kv_heads_, page_size_, tile_pages_, tile_keys_;
    int item_tokens_;  // at most, in one item
    int most_keys_;    // in one tile: more than its positions where a row branches
    size_t partial_floats_;
    float scale_;
    std::vector<Item> items_;
    std::vector<Unit> units_;
    std::vector<int> split_items_;
    std::vector<float> partials_;
};

}  // namespace russet
