#include "sampling_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

namespace russet {

namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr int kShareBits = 24;

// Weights in buckets by their magnitude, 32 to an octave: the leading bits of the weight as a float.
constexpr int kBucketsPerOctave = 32;
constexpr int kBuckets = kWeightBits * kBucketsPerOctave + 1;

inline int bucket_of(int32_t weight) {
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(weight));
    return static_cast<int>(bits >> 18) - 127 * kBucketsPerOctave;
}

// share * 2^-24 of the total, rounded down or up; in two halves, for the product may have more than 64 bits.
int64_t share_of(int64_t total, int64_t share, bool up) {
    constexpr int64_t low = (int64_t{1} << kShareBits) - 1;
    return (total >> kShareBits) * share + (((total & low) * share + (up ? low : 0)) >> kShareBits);
}

// Orders by weight, largest first, and then by id.
inline uint64_t key_of(int32_t weight, int32_t id) {
    return static_cast<uint64_t>(weight) << 32 | ~static_cast<uint32_t>(id);
}
inline int32_t weight_of(uint64_t key) { return static_cast<int32_t>(key >> 32); }
inline int32_t id_of(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

}  // namespace

int RowSampler::draw() {
    adjust();
    find_peak();
    if (!std::isfinite(peak_)) return -1;
    if (p_.temperature[r_] == 0.0f) return first_peak();
    const int k = p_.top_k[r_];
    const bool ranked = k > 0 && k < n_;
    if (ranked) keep_top_k(k);
    weigh();
    const int32_t of_nucleus = p_.top_p[r_] < 1.0f ? cut_to_nucleus() : 1;
    const auto of_min_p = static_cast<int32_t>(std::ceil(std::ldexp(static_cast<double>(p_.min_p[r_]), kWeightBits)));
    const int drawn = draw_from(std::max(of_nucleus, of_min_p));
    return ranked ? s_.kept_ids[drawn] : drawn;
}

// Penalties, bias and mask, on a copy of the logits where there are any.
void RowSampler::adjust() {
    const int seen0 = p_.seen_starts[r_], seen1 = p_.seen_starts[r_ + 1];
    const int bias0 = p_.bias_starts[r_], bias1 = p_.bias_starts[r_ + 1];
    if (seen0 == seen1 && bias0 == bias1 && mask_ == nullptr) return;
    s_.logits.resize(n_);
    float* adjusted = s_.logits.data();
    if (mask_ != nullptr) {
        kernels_.mask(x_, mask_, n_, adjusted);
    } else {
        std::copy_n(x_, n_, adjusted);
    }
    const auto banned = [&](int32_t id) { return mask_ != nullptr && (mask_[id / 32] >> (id % 32) & 1) == 0; };
    for (int i = seen0; i < seen1; ++i) {
        if (banned(p_.seen_ids[i])) continue;
        float& logit = adjusted[p_.seen_ids[i]];
        const float count = static_cast<float>(p_.seen_output_counts[i]);
        const float repeated = logit > 0.0f ? logit / p_.repetition[r_] : logit * p_.repetition[r_];
        logit = repeated - (count > 0.0f ? p_.presence[r_] : 0.0f) - p_.frequency[r_] * count;
    }
    for (int i = bias0; i < bias1; ++i) {
        if (!banned(p_.bias_ids[i])) adjusted[p_.bias_ids[i]] += p_.bias_values[i];
    }
    x_ = adjusted;
}

void RowSampler::find_peak() {
    s_.maxima.resize((n_ + kPeakBlock - 1) / kPeakBlock);
    peak_ = kernels_.peaks(x_, n_, s_.maxima.data());
}

int RowSampler::first_peak() const {
    int block = 0;
    while (s_.maxima[block] != peak_) ++block;
    int id = block * kPeakBlock;
    while (x_[id] != peak_) ++id;
    return id;
}

// The row becomes its k largest logits, in vocabulary order; kept_ids says which they are.
// Each of k blocks has an element as large as the k-th largest block maximum, so the k largest elements are at least
// that large: selection among the maxima leaves few elements to select from.
void RowSampler::keep_top_k(int k) {
    float least = kLowest;
    if (k <= static_cast<int>(s_.maxima.size())) {
        s_.ranked = s_.maxima;
        std::nth_element(s_.ranked.begin(), s_.ranked.begin() + (k - 1), s_.ranked.end(), std::greater<>());
        least = s_.ranked[k - 1];
    }
    auto& logits = s_.kept_logits;
    auto& ids = s_.kept_ids;
    logits.clear(), ids.clear();
    for (size_t block = 0; block < s_.maxima.size(); ++block) {
        if (s_.maxima[block] < least) continue;
        const int begin = static_cast<int>(block) * kPeakBlock, end = std::min(n_, begin + kPeakBlock);
        for (int i = begin; i < end; ++i) {
            if (x_[i] >= least) logits.push_back(x_[i]), ids.push_back(i);
        }
    }
    s_.ranked = logits;
    std::nth_element(s_.ranked.begin(), s_.ranked.begin() + (k - 1), s_.ranked.end(), std::greater<>());
    least = s_.ranked[k - 1];
    auto ties = k - std::count_if(s_.ranked.begin(), s_.ranked.begin() + k, [&](float x) { return x > least; });
    int kept = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
        if (logits[i] < least || (logits[i] == least && ties-- <= 0)) continue;
        logits[kept] = logits[i], ids[kept++] = ids[i];
    }
    x_ = logits.data(), n_ = k;
    find_peak();
}

void RowSampler::weigh() {
    // Never infinite: 0 times it must stay 0, the exponent of the peak.
    const double rate = std::min(1.4426950408889634074 / static_cast<double>(p_.temperature[r_]),
                                 static_cast<double>(std::numeric_limits<float>::max()));
    s_.weights.resize(n_);
    s_.sums.resize((n_ + kSumBlock - 1) / kSumBlock);
    kernels_.weigh(x_, s_.maxima.data(), peak_, static_cast<float>(rate), n_, s_.weights.data(), s_.sums.data());
}

int64_t RowSampler::total() const { return std::accumulate(s_.sums.begin(), s_.sums.end(), int64_t{0}); }

// Returns the least weight of the nucleus, and takes the weight from its equals that stay outside.
int32_t RowSampler::cut_to_nucleus() {
    const int64_t all = total();
    const auto share = static_cast<int64_t>(std::ceil(std::ldexp(static_cast<double>(p_.top_p[r_]), kShareBits)));
    const int64_t wanted = share_of(all, share, true);
    // All weights below this one, together, are no more than what may be left out.
    const auto floor = static_cast<int32_t>(std::min((all - wanted) / n_ + 1, int64_t{1} << kWeightBits));
    const int32_t* w = s_.weights.data();
    s_.chosen.resize(n_ + 16);
    int count = 0;
    for (size_t block = 0; block < s_.sums.size(); ++block) {
        if (s_.sums[block] < floor) continue;
        const int begin = static_cast<int>(block) * kSumBlock;
        count += kernels_.select(w + begin, std::min(kSumBlock, n_ - begin), floor, begin, s_.chosen.data() + count);
    }
    s_.buckets.assign(kBuckets, 0);
    for (int i = 0; i < count; ++i) {
        const int32_t weight = w[s_.chosen[i]];
        s_.buckets[bucket_of(weight)] += weight;
    }
    int bucket = kBuckets - 1;
    int64_t above = 0;
    while (above + s_.buckets[bucket] < wanted) above += s_.buckets[bucket--];
    s_.keys.clear();
    for (int i = 0; i < count; ++i) {
        const int32_t id = s_.chosen[i];
        if (bucket_of(w[id]) == bucket) s_.keys.push_back(key_of(w[id], id));
    }
    const uint64_t last = last_of_nucleus(above, wanted);
    for (uint64_t key : s_.keys) {
        if (weight_of(key) == weight_of(last) && key < last) s_.weights[id_of(key)] = 0;
    }
    return weight_of(last);
}

// The last of the fewest largest keys whose weights bring `above` to `wanted`, by bisection: only the half in which the
// sum crosses is looked at again.
uint64_t RowSampler::last_of_nucleus(int64_t above, int64_t wanted) {
    auto begin = s_.keys.begin(), end = s_.keys.end();
    while (end - begin > 32) {
        const auto middle = begin + (end - begin) / 2;
        std::nth_element(begin, middle, end, std::greater<>());
        int64_t mass = above;
        for (auto key = begin; key != middle; ++key) mass += weight_of(*key);
        if (mass >= wanted) {
            end = middle;
        } else {
            above = mass, begin = middle;
        }
    }
    std::sort(begin, end, std::greater<>());
    while ((above += weight_of(*begin)) < wanted) ++begin;
    return *begin;
}

// The inverse of the running sum over the weights of at least `least`, block by block, then within the block.
int RowSampler::draw_from(int32_t least) {
    const int32_t* w = s_.weights.data();
    if (least > 1) {
        for (size_t block = 0; block < s_.sums.size(); ++block) {
            const int begin = static_cast<int>(block) * kSumBlock;
            int64_t& sum = s_.sums[block];
            sum = sum < least ? 0 : kernels_.sum_from(w + begin, std::min(kSumBlock, n_ - begin), least);
        }
    }
    int64_t left = share_of(total(), uniform(p_.seed[r_], p_.position[r_]), false);
    size_t block = 0;
    while (s_.sums[block] <= left) left -= s_.sums[block++];
    int id = static_cast<int>(block) * kSumBlock;
    for (;; ++id) {
        if (w[id] < least) continue;
        if (w[id] > left) return id;
        left -= w[id];
    }
}

}  // namespace russet
