#include "sampling_nucleus.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>

#include "vector_kernels.h"

namespace russet {

namespace {

// Weights in buckets by their magnitude, 32 to an octave: the leading bits of the weight as a float.
constexpr int kBucketsPerOctave = 32;
constexpr int kBuckets = kWeightBits * kBucketsPerOctave + 1;
constexpr int kFirstBucket = 127 * kBucketsPerOctave;
constexpr int kBelowBucketBits = 18;
constexpr int32_t kAboveAll = (int32_t{1} << kWeightBits) + 1;

inline int bucket_of(int32_t weight) {
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(weight));
    return static_cast<int>(bits >> kBelowBucketBits) - kFirstBucket;
}

// The least weight of a bucket.
int32_t low_of(int bucket) {
    const auto bits = static_cast<uint32_t>(bucket + kFirstBucket) << kBelowBucketBits;
    return static_cast<int32_t>(std::ceil(std::bit_cast<float>(bits)));
}

// A key orders by weight, largest first, and then by id.
inline uint64_t key_of(int32_t weight, int32_t id) {
    return static_cast<uint64_t>(weight) << 32 | ~static_cast<uint32_t>(id);
}
inline int32_t weight_of(uint64_t key) { return static_cast<int32_t>(key >> 32); }
inline int32_t id_of(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

// Weights of low and more, but less than high.
struct Bracket {
    int32_t low, high;
};

class Nucleus {
  public:
    Nucleus(std::span<int32_t> weights, std::span<const int64_t> sums, int64_t wanted, NucleusScratch& scratch)
        : w_(weights), n_(static_cast<int>(weights.size())), sums_(sums), wanted_(wanted), s_(scratch),
          kernels_(vector_kernels()), excess_(std::accumulate(sums.begin(), sums.end(), int64_t{0}) - wanted) {}

    int32_t cut() {
        const Bracket all = all_that_may_matter();
        const std::optional<Bracket> sampled = many_in(all) ? guess() : std::nullopt;
        if (!search(sampled.value_or(probable(all)))) search(all);
        const uint64_t last = last_key();
        for (int i = 0; i < key_count_; ++i) {
            const uint64_t key = s_.keys[i];
            if (weight_of(key) == weight_of(last) && key < last) w_[id_of(key)] = 0;
        }
        return weight_of(last);
    }

  private:
    static constexpr int kMany = 12000;  // weights to search that make a guess worth its time
    static constexpr int kStride = 17;

    // All weights below its low end, together, are no more than what may be left out.
    Bracket all_that_may_matter() const {
        return {static_cast<int32_t>(std::min(excess_ / n_ + 1, int64_t{1} << kWeightBits)), kAboveAll};
    }

    // Weights vary so much that those not far above the low end, too, hardly ever add up to what may be left out.
    static Bracket probable(Bracket all) {
        return {static_cast<int32_t>(std::min(int64_t{8} * all.low, int64_t{1} << kWeightBits)), kAboveAll};
    }

    bool many_in(Bracket bracket) const {
        constexpr int stride = 127;
        int in = 0;
        for (int i = 0; i < n_; i += stride) in += w_[i] >= bracket.low;
        return in > kMany / stride;
    }

    // Where the least weight of the nucleus probably is, from every 17th weight; none where the sample cannot tell. What
    // is left out is light, so a sample knows it well: its sum varies no more than one of excess / least weights that
    // are all as large as the least would.
    std::optional<Bracket> guess() {
        s_.buckets.assign(kBuckets, 0);
        int64_t* buckets = s_.buckets.data();
        for (int i = 0; i < n_; i += kStride) buckets[bucket_of(std::max(w_[i], 1))] += w_[i];
        const int64_t excess = excess_ / kStride;
        int bucket = 0;
        int64_t below = 0;
        while (bucket < kBuckets - 1 && below + buckets[bucket] <= excess) below += buckets[bucket++];
        const auto error = static_cast<int64_t>(3.0 * std::sqrt(static_cast<double>(low_of(bucket)) * excess));
        if (error > excess / 2) return std::nullopt;
        int low = bucket, high = bucket + 1;
        for (int64_t left = below; low > 0 && left > excess - error;) left -= buckets[--low];
        for (int64_t left = below + buckets[bucket]; high < kBuckets && left < excess + error;) {
            left += buckets[high++];
        }
        return Bracket{low_of(low), high < kBuckets ? low_of(high) : kAboveAll};
    }

    // Whether the nucleus ends within the bracket; if so, leaves the keys of the bucket in which it does.
    bool search(Bracket bracket) {
        s_.ids.resize(n_ + 16);
        s_.weights.resize(n_ + 16);
        FoundWeights found{s_.weights.data(), s_.ids.data(), 0};
        int64_t above = 0;
        for (size_t block = 0; block < sums_.size(); ++block) {
            if (sums_[block] < bracket.low) continue;
            const int begin = static_cast<int>(block) * kSumBlock;
            above += kernels_.split(w_.data() + begin, std::min(kSumBlock, n_ - begin), bracket.low, bracket.high, begin,
                                    found);
        }
        if (above >= wanted_) return false;
        s_.buckets.assign(kBuckets, 0);
        int64_t* buckets = s_.buckets.data();
        for (int i = 0; i < found.count; ++i) buckets[bucket_of(found.weights[i])] += found.weights[i];
        int bucket = kBuckets - 1;
        while (bucket >= 0 && above + buckets[bucket] < wanted_) above += buckets[bucket--];
        if (bucket < 0) return false;
        const int32_t low = low_of(bucket), high = bucket + 1 < kBuckets ? low_of(bucket + 1) : kAboveAll;
        s_.keys.resize(n_);
        uint64_t* keys = s_.keys.data();
        int count = 0;
        for (int i = 0; i < found.count; ++i) {
            keys[count] = key_of(found.weights[i], found.ids[i]);
            count += found.weights[i] >= low && found.weights[i] < high;
        }
        above_ = above, key_count_ = count;
        return true;
    }

    // The last key of the nucleus, by bisection: only the half in which the sum crosses `wanted` is looked at again.
    uint64_t last_key() {
        auto begin = s_.keys.begin(), end = begin + key_count_;
        while (end - begin > 32) {
            const auto middle = begin + (end - begin) / 2;
            std::nth_element(begin, middle, end, std::greater<>());
            int64_t mass = above_;
            for (auto key = begin; key != middle; ++key) mass += weight_of(*key);
            if (mass >= wanted_) {
                end = middle;
            } else {
                above_ = mass, begin = middle;
            }
        }
        std::sort(begin, end, std::greater<>());
        while ((above_ += weight_of(*begin)) < wanted_) ++begin;
        return *begin;
    }

    std::span<int32_t> w_;
    int n_;
    std::span<const int64_t> sums_;
    int64_t wanted_;
    NucleusScratch& s_;
    const VectorKernels& kernels_;
    int64_t excess_;     // what may be left out
    int64_t above_ = 0;  // sum of the weights that order before all keys
    int key_count_ = 0;
};

}  // namespace

int32_t cut_to_nucleus(std::span<int32_t> weights, std::span<const int64_t> sums, int64_t wanted,
                       NucleusScratch& scratch) {
    return Nucleus(weights, sums, wanted, scratch).cut();
}

}  // namespace russet
