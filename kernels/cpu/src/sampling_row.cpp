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
constexpr float kLeastLogprob = -9999.0f;  // kernels/logprobs.py: LEAST

// share * 2^-24 of the total, rounded down or up; in two halves, for the product may have more than 64 bits.
int64_t share_of(int64_t total, int64_t share, bool up) {
    constexpr int64_t low = (int64_t{1} << kShareBits) - 1;
    return (total >> kShareBits) * share + (((total & low) * share + (up ? low : 0)) >> kShareBits);
}

// The one of n ids that a mask allows; -1 where it allows several, or none.
int only_allowed(const uint32_t* words, int n) {
    int only = -1;
    for (int begin = 0; begin < n; begin += 32) {
        uint32_t word = words[begin / 32];
        if (n - begin < 32) word &= (uint32_t{1} << (n - begin)) - 1;
        if (word == 0) continue;
        if (only >= 0 || !std::has_single_bit(word)) return -1;
        only = begin + std::countr_zero(word);
    }
    return only;
}

}  // namespace

int RowSampler::draw() {
    if (mask_ != nullptr) {
        if (const int only = only_allowed(mask_, n_); only >= 0 && !banned(only)) return only;
    }
    adjust();
    find_peak();
    if (!std::isfinite(peak_)) return -1;
    if (p_.temperature[r_] == 0.0f) return first_peak();
    const int k = p_.top_k[r_];
    const bool ranked = k > 0 && k < n_;
    if (ranked) keep_top_k(k);
    weigh(p_.temperature[r_]);
    const int32_t of_nucleus = p_.top_p[r_] < 1.0f ? least_of_nucleus() : 1;
    const auto of_min_p = static_cast<int32_t>(std::ceil(std::ldexp(static_cast<double>(p_.min_p[r_]), kWeightBits)));
    const int drawn = draw_from(std::max(of_nucleus, of_min_p));
    return ranked ? s_.kept_ids[drawn] : drawn;
}

void RowSampler::tell(int32_t id, int top, float* chosen, int32_t* top_ids, float* top_values) {
    find_peak();
    if (!std::isfinite(peak_)) {
        *chosen = kLeastLogprob;
        std::iota(top_ids, top_ids + top, 0);
        std::fill_n(top_values, top, kLeastLogprob);
        return;
    }
    weigh(1.0);
    const double base = peak_ + std::log(std::ldexp(static_cast<double>(total()), -kWeightBits));
    const auto logprob = [&](float x) { return std::max(static_cast<float>(x - base), kLeastLogprob); };
    *chosen = logprob(x_[id]);
    if (top == 0) return;
    const bool ranked = top < n_;
    if (ranked) keep_top_k(top);
    for (int i = 0; i < top; ++i) top_ids[i] = i;
    std::stable_sort(top_ids, top_ids + top, [&](int32_t a, int32_t b) { return x_[a] > x_[b]; });
    for (int i = 0; i < top; ++i) {
        top_values[i] = logprob(x_[top_ids[i]]);
        if (ranked) top_ids[i] = s_.kept_ids[top_ids[i]];
    }
}

bool RowSampler::banned(int id) const {
    for (int i = p_.bias_starts[r_]; i < p_.bias_starts[r_ + 1]; ++i) {
        if (p_.bias_ids[i] == id) return p_.bias_values[i] == kLowest;
    }
    return false;
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

// What the k largest logits are at least; few others are. However the row is divided into groups, k of them have an
// element as large as the k-th largest of the groups' maxima. Four groups to each of the k leave few to choose from.
float RowSampler::bound_of_top_k(int k) {
    auto& maxima = s_.ranked;
    const size_t groups = 4 * static_cast<size_t>(k);
    if (groups <= s_.maxima.size()) {
        maxima = s_.maxima;
    } else if (groups <= static_cast<size_t>(n_) / 2) {  // group g: g, g + groups, ...
        maxima.assign(x_, x_ + groups);
        for (size_t begin = groups; begin < static_cast<size_t>(n_); begin += groups) {
            const size_t size = std::min(groups, n_ - begin);
            for (size_t i = 0; i < size; ++i) maxima[i] = std::max(maxima[i], x_[begin + i]);
        }
    } else {
        return kLowest;
    }
    std::nth_element(maxima.begin(), maxima.begin() + (k - 1), maxima.end(), std::greater<>());
    return maxima[k - 1];
}

// The row becomes its k largest logits, in vocabulary order; kept_ids says which they are.
void RowSampler::keep_top_k(int k) {
    float least = bound_of_top_k(k);
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

void RowSampler::weigh(double temperature) {
    // Never infinite: 0 times it must stay 0, the exponent of the peak.
    const double rate = std::min(1.4426950408889634074 / temperature,
                                 static_cast<double>(std::numeric_limits<float>::max()));
    s_.weights.resize(n_);
    s_.sums.resize((n_ + kSumBlock - 1) / kSumBlock);
    kernels_.weigh(x_, s_.maxima.data(), peak_, static_cast<float>(rate), n_, s_.weights.data(), s_.sums.data());
}

int64_t RowSampler::total() const { return std::accumulate(s_.sums.begin(), s_.sums.end(), int64_t{0}); }

int32_t RowSampler::least_of_nucleus() {
    const auto share = static_cast<int64_t>(std::ceil(std::ldexp(static_cast<double>(p_.top_p[r_]), kShareBits)));
    return cut_to_nucleus(s_.weights, s_.sums, share_of(total(), share, true), s_.nucleus);
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
