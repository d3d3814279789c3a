// One tile of attention for a few queries, compiled per instruction set (vector_kernels.h).

constexpr int kBlockKeys = 16;
// By the registers: so many queries share a load, each with so many vectors of accumulators at once.
constexpr int kMostQueries = 6;
constexpr int kMostVectors = kLanes == 16 ? 4 : 2;
constexpr int kVectorsPerBlock = kBlockKeys / kLanes;
constexpr int kBlocksAtOnce = kMostVectors > kVectorsPerBlock ? kMostVectors / kVectorsPerBlock : 1;
constexpr int kHalvesPerLine = 32;

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
            k[j] = load_half(blocks[j / kVectorsPerBlock].keys + d * kBlockKeys + j % kVectorsPerBlock * kLanes);
        for (int b = 0; b < kBlocks; ++b) prefetch(blocks[b + kBlocksAhead].keys + d * kBlockKeys);
        for (int i = 0; i < kQueries; ++i) {
            V value = splat(q[i * dim + d]);
            for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(value, k[j], acc[i][j]);
        }
    } while (++d < dim);
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j)
            store(scores + i * stride + blocks[j / kVectorsPerBlock].offset + j % kVectorsPerBlock * kLanes, acc[i][j]);
}

template <int kQueries>
inline void score_all(const KeyBlock* blocks, int count, int dim, const float* q, float* scores, int stride) {
    int b = 0;
    for (; b + kBlocksAtOnce <= count; b += kBlocksAtOnce)
        score_blocks<kQueries, kBlocksAtOnce>(blocks + b, dim, q, scores, stride);
    for (; b < count; ++b) score_blocks<kQueries, 1>(blocks + b, dim, q, scores, stride);
}

// out[q][d0 ...] = sum over keys, in their order, of weight[q][key] * value[key]
template <int kQueries, int kVectors>
inline void weigh_columns(const KeyBlock* blocks, int count, int dim, int d0, const float* weights, int stride,
                          float* out) {
    V acc[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) acc[i][j] = splat(0.0f);
    for (int b = 0; b < count; ++b) {
        const uint16_t* values = blocks[b].values + d0;
        const uint16_t* ahead = blocks[b + kBlocksAhead].values + d0;
        const float* weight = weights + blocks[b].offset;
        for (int s = 0; s < blocks[b].count; ++s, values += dim, ahead += dim, ++weight) {
            for (int line = 0; line < kVectors * kLanes; line += kHalvesPerLine) prefetch(ahead + line);
            V v[kVectors];
            for (int j = 0; j < kVectors; ++j) v[j] = load_half(values + j * kLanes);
            for (int i = 0; i < kQueries; ++i) {
                V p = splat(weight[i * stride]);
                for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(p, v[j], acc[i][j]);
            }
        }
    }
    for (int i = 0; i < kQueries; ++i)
        for (int j = 0; j < kVectors; ++j) store(out + i * dim + d0 + j * kLanes, acc[i][j]);
}

template <int kQueries>
inline void weigh_all(const KeyBlock* blocks, int count, int dim, const float* weights, int stride, float* out) {
    int d = 0;
    for (; d + kMostVectors * kLanes <= dim; d += kMostVectors * kLanes)
        weigh_columns<kQueries, kMostVectors>(blocks, count, dim, d, weights, stride, out);
    for (; d < dim; d += kLanes) weigh_columns<kQueries, 1>(blocks, count, dim, d, weights, stride, out);
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

template <int kQueries>
inline void tile_queries(const TileCall& c, int first) {
    const float* q = c.q + first * c.dim;
    float* scores = c.scores;
    score_all<kQueries>(c.blocks, c.block_count, c.dim, q, scores, c.stride);
    for (int i = 0; i < kQueries; ++i)
        soften(scores + i * c.stride, c.visible[first + i], c.keys, c.maxima + first + i, c.sums + first + i);
    weigh_all<kQueries>(c.blocks, c.block_count, c.dim, scores, c.stride, c.out + first * c.dim);
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


