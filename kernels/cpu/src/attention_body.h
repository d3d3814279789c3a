// One tile of attention for a few queries, compiled per instruction set (vector_kernels.h). Packed blocks (slab.h) are
// read as they are. With keys k = scale * code + zero by channel, q . k = (q * scale) . code + q . zero, of which the
// left factor and the right summand are made once per block; with values scale * code + zero by token, a weight's
// share is (weight * scale) * code + weight * zero.

constexpr int kBlockKeys = 16;
// By the registers: so many queries share a load, each with so many vectors of accumulators at once.
constexpr int kMostQueries = 6;
constexpr int kMostVectors = kLanes == 16 ? 4 : 2;
constexpr int kVectorsPerBlock = kBlockKeys / kLanes;
constexpr int kBlocksAtOnce = kMostVectors > kVectorsPerBlock ? kMostVectors / kVectorsPerBlock : 1;
constexpr int kHalvesPerLine = 32;

inline const uint16_t* halves(const void* p) { return static_cast<const uint16_t*>(p); }
inline const uint32_t* words(const void* p) { return static_cast<const uint32_t*>(p); }

// scores[q][offset + slot] = q . k for every slot of every block. A block writes 16 scores, and the next one overwrites
// those past its count: the blocks come in order of offset.
template <int kQueries, int kBlocks>
inline void score_blocks(const KeyBlock* blocks, int dim, const float* q, float* scores, int stride) {
    constexpr int kVectors = kBlocks * kVectorsPerBlock;
    V acc[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) acc[i][j] = splat(0.0f);
    int d = 0;
    do {  // dim is 16 or more
        V k[kVectors];
        for (int j = 0; j < kVectors; ++j)
            k[j] = load_half(halves(blocks[j / kVectorsPerBlock].keys) + d * kBlockKeys + j % kVectorsPerBlock * kLanes);
        for (int b = 0; b < kBlocks; ++b) prefetch(halves(blocks[b + kBlocksAhead].keys) + d * kBlockKeys);
        for (int i = 0; i < kQueries; ++i) {
            V value = splat(q[i * dim + d]);
            for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(value, k[j], acc[i][j]);
        }
    } while (++d < dim);
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j)
            store(scores + i * stride + blocks[j / kVectorsPerBlock].offset + j % kVectorsPerBlock * kLanes, acc[i][j]);
}

// The same of packed keys, the quarters of one block.
template <int kBits, int kQueries, int kBlocks>
inline void score_codes(const KeyBlock* blocks, int dim, const float* scaled, const float* shifts, float* scores,
                        int stride) {
    constexpr int kVectors = kBlocks * kVectorsPerBlock, kPerLine = 32 / kBits;
    V acc[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) acc[i][j] = splat(shifts[i]);
    for (int d = 0, at = 0; d < dim; at += kLineWords) {
        Line lines[kVectors];
        for (int j = 0; j < kVectors; ++j)
            lines[j] = load_line(words(blocks[j / kVectorsPerBlock].keys) + at + j % kVectorsPerBlock * kLanes);
        for (int b = 0; b < kBlocks; ++b) prefetch(words(blocks[b + kBlocksAhead].keys) + at);
        for (const int end = d + kPerLine; d < end; ++d) {
            V k[kVectors];
            for (int j = 0; j < kVectors; ++j) k[j] = low_codes<kBits>(lines[j]), lines[j] = next_codes<kBits>(lines[j]);
            for (int i = 0; i < kQueries; ++i) {
                V value = splat(scaled[i * dim + d]);
                for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(value, k[j], acc[i][j]);
            }
        }
    }
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j)
            store(scores + i * stride + blocks[j / kVectorsPerBlock].offset + j % kVectorsPerBlock * kLanes, acc[i][j]);
}

template <int kBits, int kQueries>
inline void score_quarters(const KeyBlock* blocks, int count, int dim, const float* scaled, const float* shifts,
                           float* scores, int stride) {
    int b = 0;
    for (; b + kBlocksAtOnce <= count; b += kBlocksAtOnce)
        score_codes<kBits, kQueries, kBlocksAtOnce>(blocks + b, dim, scaled, shifts, scores, stride);
    for (; b < count; ++b) score_codes<kBits, kQueries, 1>(blocks + b, dim, scaled, shifts, scores, stride);
}

// scaled[q] = q * scale, shifts[q] = q . zero; asks for the scales of a block to come.
template <int kQueries>
inline void scale_queries(const uint16_t* scales, const uint16_t* ahead, int dim, const float* q, float* scaled,
                          float* shifts) {
    V sums[kQueries];
    for (int i = 0; i < kQueries; ++i) sums[i] = splat(0.0f);
    for (int d = 0; d < dim; d += kLanes) {
        prefetch(ahead + 2 * d);
        const V scale = load_half(scales + d), zero = load_half(scales + dim + d);
        for (int i = 0; i < kQueries; ++i) {
            const V x = load(q + i * dim + d);
            store(scaled + i * dim + d, x * scale);
            sums[i] = fma(x, zero, sums[i]);
        }
    }
    for (int i = 0; i < kQueries; ++i) shifts[i] = sum(sums[i]);
}

template <int kQueries>
inline void score_all(const TileCall& c, const float* q) {
    for (int b = 0, end = 0; b < c.block_count; b = end) {
        const KeyBlock* run = c.blocks + b;  // of half precision, or of one packed block
        for (end = b + 1; end < c.block_count && c.blocks[end].key_scales == run->key_scales;) ++end;
        if (run->bits == 16) {
            int i = b;
            for (; i + kBlocksAtOnce <= end; i += kBlocksAtOnce)
                score_blocks<kQueries, kBlocksAtOnce>(c.blocks + i, c.dim, q, c.scores, c.stride);
            for (; i < end; ++i) score_blocks<kQueries, 1>(c.blocks + i, c.dim, q, c.scores, c.stride);
            continue;
        }
        float shifts[kQueries];
        scale_queries<kQueries>(run->key_scales, run[kBlocksAhead].key_scales, c.dim, q, c.scaled, shifts);
        const auto score = run->bits == 8   ? score_quarters<8, kQueries>
                           : run->bits == 4 ? score_quarters<4, kQueries>
                                            : score_quarters<2, kQueries>;
        score(run, end - b, c.dim, c.scaled, shifts, c.scores, c.stride);
    }
}

// Weights of packed values become weight * scale; returns the sums of weight * zero in `shifts`.
template <int kQueries>
inline void scale_weights(const TileCall& c, float* shifts) {
    V sums[kQueries];
    for (int i = 0; i < kQueries; ++i) sums[i] = splat(0.0f);
    for (int b = 0; b < c.block_count; ++b) {
        const KeyBlock& block = c.blocks[b];
        if (block.bits == 16) continue;
        prefetch(c.blocks[b + kBlocksAhead].value_scales);
        for (int token = 0; token < kBlockKeys; token += kLanes) {
            const V scale = load_half(block.value_scales + token);
            const V zero = load_half(block.value_scales + kBlockKeys + token);
            for (int i = 0; i < kQueries; ++i) {
                float* at = c.scores + i * c.stride + block.offset + token;
                const V weight = load(at);
                sums[i] = fma(weight, zero, sums[i]);
                store(at, weight * scale);
            }
        }
    }
    for (int i = 0; i < kQueries; ++i) shifts[i] = sum(sums[i]);
}

// acc[q] += sum over the block's keys, in their order, of weight[q][key] * value[key][d0 ...]
template <int kQueries, int kVectors>
[[gnu::always_inline]] inline void weigh_halves(const KeyBlock* block, int dim, int d0, const float* weight, int stride,
                                                V (&acc)[kQueries][kVectors]) {
    const uint16_t* values = halves(block->values) + d0;
    const uint16_t* ahead = halves(block[kBlocksAhead].values) + d0;
    for (int s = 0; s < block->count; ++s, values += dim, ahead += dim, ++weight) {
        for (int line = 0; line < kVectors * kLanes; line += kHalvesPerLine) prefetch(ahead + line);
        V v[kVectors];
        for (int j = 0; j < kVectors; ++j) v[j] = load_half(values + j * kLanes);
        for (int i = 0; i < kQueries; ++i) {
            V p = splat(weight[i * stride]);
            for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(p, v[j], acc[i][j]);
        }
    }
}

// The same of a packed block's codes.
template <int kBits, int kQueries, int kVectors>
[[gnu::always_inline]] inline void weigh_codes(const KeyBlock* block, int d0, const float* weight, int stride,
                                               V (&acc)[kQueries][kVectors]) {
    constexpr int kPerLine = 32 / kBits, kGroupWords = kBlockKeys / kPerLine * kLineWords;
    for (int s = 0, at = 0; s < kBlockKeys; at += kLineWords) {
        Line lines[kVectors];
        for (int j = 0; j < kVectors; ++j) {
            const int d = d0 + j * kLanes, from = d / kLineWords * kGroupWords + at + d % kLineWords;
            lines[j] = load_line(words(block->values) + from);
            if (j * kLanes % kLineWords == 0) prefetch(words(block[kBlocksAhead].values) + from);
        }
        for (const int end = s + kPerLine; s < end; ++s, ++weight) {
            V v[kVectors];
            for (int j = 0; j < kVectors; ++j) v[j] = low_codes<kBits>(lines[j]), lines[j] = next_codes<kBits>(lines[j]);
            for (int i = 0; i < kQueries; ++i) {
                V p = splat(weight[i * stride]);
                for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(p, v[j], acc[i][j]);
            }
        }
    }
}

// out[q][d0 ...] = shift[q] + sum over keys, in their order, of weight[q][key] * value or code[key]
template <int kQueries, int kVectors>
inline void weigh_columns(const TileCall& c, int d0, const float* shifts, float* out) {
    V acc[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) acc[i][j] = splat(shifts[i]);
    for (int b = 0; b < c.block_count; ++b) {
        const KeyBlock* block = c.blocks + b;
        const float* weight = c.scores + block->offset;
        switch (block->bits) {
            case 8: weigh_codes<8, kQueries, kVectors>(block, d0, weight, c.stride, acc); break;
            case 4: weigh_codes<4, kQueries, kVectors>(block, d0, weight, c.stride, acc); break;
            case 2: weigh_codes<2, kQueries, kVectors>(block, d0, weight, c.stride, acc); break;
            default: weigh_halves<kQueries, kVectors>(block, c.dim, d0, weight, c.stride, acc);
        }
    }
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) store(out + i * c.dim + d0 + j * kLanes, acc[i][j]);
}

template <int kQueries>
inline void weigh_all(const TileCall& c, float* out) {
    float shifts[kQueries];
    scale_weights<kQueries>(c, shifts);
    int d = 0;
    for (; d + kMostVectors * kLanes <= c.dim; d += kMostVectors * kLanes)
        weigh_columns<kQueries, kMostVectors>(c, d, shifts, out);
    for (; d < c.dim; d += kLanes) weigh_columns<kQueries, 1>(c, d, shifts, out);
}

// Turns scores[0, visible) into e^(score - maximum), zeroes [visible, width), and gives the maximum and the sum. What
// it does depends on `visible` alone, not on how many keys the tile's other queries see.
inline void soften(float* scores, int visible, int width, float* maximum, float* total) {
    int padded = (visible + kLanes - 1) / kLanes * kLanes;
    for (int i = visible; i < padded; ++i) scores[i] = -INFINITY;
    V most = splat(-INFINITY);
    for (int i = 0; i < padded; i += kLanes) most = larger(most, load(scores + i));
    float m = largest(most);
    V shift = splat(m), sums = splat(0.0f);
    const int whole = visible / kLanes * kLanes;
    for (int i = 0; i < whole; i += kLanes) {
        V weights = exponential(load(scores + i) - shift);
        store(scores + i, weights);
        sums = sums + weights;
    }
    if (whole < padded) store(scores + whole, exponential(load(scores + whole) - shift));
    for (int i = visible; i < padded || i < width; ++i) scores[i] = 0.0f;
    if (whole < padded) sums = sums + load(scores + whole);
    *maximum = m;
    *total = sum(sums);
}

// `soften` of one query. Where the row branches, the scores on its path come together for it, and the weights go back to
// where their keys lie; the others' weights are 0, which adds nothing. As the offsets of a path rise and are no less than
// where they go, none is overwritten before it is read.
inline void soften_query(const TileCall& c, int query, float* scores) {
    const int visible = c.visible[query];
    if (c.paths == nullptr) return soften(scores, visible, c.keys, c.maxima + query, c.sums + query);
    const int* path = c.paths[query];
    float* together = scores + c.trunk;
    for (int i = 0; i < visible - c.trunk; ++i) together[i] = scores[path[i]];
    soften(scores, visible, c.keys, c.maxima + query, c.sums + query);
    for (int i = visible - c.trunk - 1; i >= 0; --i) {
        const float weight = together[i];
        together[i] = 0.0f;
        scores[path[i]] = weight;
    }
}

template <int kQueries>
inline void tile_queries(const TileCall& c, int first) {
    score_all<kQueries>(c, c.q + first * c.dim);
    for (int i = 0; i < kQueries; ++i) soften_query(c, first + i, c.scores + i * c.stride);
    weigh_all<kQueries>(c, c.out + first * c.dim);
}

inline void attend_tile(const TileCall& c) {
    int i = 0;
    for (; i + kMostQueries <= c.queries; i += kMostQueries) tile_queries<kMostQueries>(c, i);
    switch (c.queries - i) {
        case 1: return tile_queries<1>(c, i);
        case 2: return tile_queries<2>(c, i);
        case 3: return tile_queries<3>(c, i);
        case 4: return tile_queries<4>(c, i);
        case 5: return tile_queries<5>(c, i);
        default: return;
    }
}

// Folds one tile's partials into the running ones: both are scaled to the larger maximum.
inline void merge_tile(int queries, int dim, const float* partial, const float* tile_maxima, const float* tile_sums,
                       float* merged, float* maxima, float* sums) {
    for (int i = 0; i < queries; ++i) {
        float m = maxima[i] > tile_maxima[i] ? maxima[i] : tile_maxima[i];
        float scales[2 * kLanes];
        store(scales, exponential(splat(maxima[i] - m)));
        store(scales + kLanes, exponential(splat(tile_maxima[i] - m)));
        float kept = maxima[i] == -INFINITY ? 0.0f : scales[0], added = scales[kLanes];
        V a = splat(kept), b = splat(added);
        sums[i] = sums[i] * kept + tile_sums[i] * added;
        maxima[i] = m;
        for (int d = 0; d < dim; d += kLanes)
            store(merged + i * dim + d, fma(load(partial + i * dim + d), b, load(merged + i * dim + d) * a));
    }
}


