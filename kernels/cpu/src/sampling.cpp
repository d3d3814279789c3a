#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "pool.h"
#include "vector_kernels.h"

namespace russet {

namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

struct Candidate {
    float logit;
    int32_t id;
    double weight;
    // Largest first; the lower id first among equals.
    bool operator<(const Candidate& other) const {
        return logit > other.logit || (logit == other.logit && id < other.id);
    }
};

struct Scratch {
    std::vector<float> logits, maxima, ranked;
    std::vector<double> weights, sums;
    std::vector<Candidate> candidates;
};

// One row on its way through the stages.
class RowSampler {
  public:
    RowSampler(const float* logits, int vocab, const SampleParameters& parameters, int row, Scratch& scratch)
        : x_(logits), n_(vocab), p_(parameters), r_(row), s_(scratch), kernels_(vector_kernels()) {}

    // The token; -1 where the largest logit is not finite (`peak` then says what it is).
    int draw() {
        adjust();
        s_.maxima.resize((n_ + kPeakBlock - 1) / kPeakBlock);
        peak_ = kernels_.peaks(x_, n_, s_.maxima.data());
        if (!std::isfinite(peak_)) return -1;
        if (p_.temperature[r_] == 0.0f) return first_peak();
        rate_ = 1.0 / static_cast<double>(p_.temperature[r_]);
        target_ = uniform(p_.seed[r_], p_.position[r_]);
        const bool nucleus = p_.top_p[r_] < 1.0f;
        if (const int k = p_.top_k[r_]; k > 0 && k < n_) {
            keep_top_k(k);
            return draw_down_to(nucleus ? end_of_nucleus(total_of_candidates()) : s_.candidates[k - 1]);
        }
        if (nucleus) return draw_down_to(end_of_nucleus(gather_nucleus()));
        weigh(p_.min_p[r_]);
        return draw_from_weights();
    }

    float peak() const { return peak_; }

  private:
    // Penalties and bias, on a copy of the logits where there are any.
    void adjust() {
        const int seen0 = p_.seen_starts[r_], seen1 = p_.seen_starts[r_ + 1];
        const int bias0 = p_.bias_starts[r_], bias1 = p_.bias_starts[r_ + 1];
        if (seen0 == seen1 && bias0 == bias1) return;
        s_.logits.assign(x_, x_ + n_);
        for (int i = seen0; i < seen1; ++i) {
            float& logit = s_.logits[p_.seen_ids[i]];
            const float count = static_cast<float>(p_.seen_output_counts[i]);
            const float repeated = logit > 0.0f ? logit / p_.repetition[r_] : logit * p_.repetition[r_];
            logit = repeated - (count > 0.0f ? p_.presence[r_] : 0.0f) - p_.frequency[r_] * count;
        }
        for (int i = bias0; i < bias1; ++i) s_.logits[p_.bias_ids[i]] += p_.bias_values[i];
        x_ = s_.logits.data();
    }

    int first_peak() const {
        int block = 0;
        while (s_.maxima[block] != peak_) ++block;
        int id = block * kPeakBlock;
        while (x_[id] != peak_) ++id;
        return id;
    }

    // Everything at or above `least`, in vocabulary order; whole blocks below it are skipped.
    void gather(float least) {
        s_.candidates.clear();
        for (size_t block = 0; block < s_.maxima.size(); ++block) {
            if (s_.maxima[block] < least) continue;
            const int begin = static_cast<int>(block) * kPeakBlock, end = std::min(n_, begin + kPeakBlock);
            for (int i = begin; i < end; ++i) {
                if (x_[i] >= least) s_.candidates.push_back({x_[i], i, 0.0});
            }
        }
    }

    // The candidates become the k largest; the smallest of them stands last, the others in no order.
    // Each of k blocks has an element as large as the k-th largest block maximum, so the k largest elements are at
    // least that large: selection among the maxima leaves few candidates to select from.
    void keep_top_k(int k) {
        float least = kLowest;
        if (k <= static_cast<int>(s_.maxima.size())) {
            s_.ranked = s_.maxima;
            std::nth_element(s_.ranked.begin(), s_.ranked.begin() + (k - 1), s_.ranked.end(), std::greater<>());
            least = s_.ranked[k - 1];
        }
        gather(least);
        auto& c = s_.candidates;
        std::nth_element(c.begin(), c.begin() + (k - 1), c.end());
        c.resize(k);
    }

    double total_of_candidates() {
        std::sort(s_.candidates.begin(), s_.candidates.end());
        double total = 0.0;
        for (Candidate& c : s_.candidates) total += c.weight = weight(c.logit);
        return total;
    }

    // Widens the candidates from the top until they hold the mass that top-p wants; returns the mass of all.
    double gather_nucleus() {
        weigh(0.0);
        double total = 0.0;
        for (double sum : s_.sums) total += sum;
        for (double depth = 2.0;; depth *= 2.0) {
            const bool all = depth > 800.0;  // weights are zero from 708 on
            gather(all ? kLowest : static_cast<float>(peak_ - depth / rate_));
            double mass = 0.0;
            for (Candidate& c : s_.candidates) mass += c.weight = s_.weights[c.id];
            if (all || mass >= p_.top_p[r_] * total) return total;
        }
    }

    // The last of the fewest largest candidates whose weights reach top-p of the total, by bisection: only the half
    // in which the sum crosses is looked at again.
    Candidate end_of_nucleus(double total) {
        const double wanted = p_.top_p[r_] * total;
        auto begin = s_.candidates.begin(), end = s_.candidates.end();
        double above = 0.0;
        while (end - begin > 32) {
            auto middle = begin + (end - begin) / 2;
            std::nth_element(begin, middle, end);
            double mass = above;
            for (auto c = begin; c != middle; ++c) mass += c->weight;
            if (mass >= wanted) {
                end = middle;
            } else {
                above = mass, begin = middle;
            }
        }
        std::sort(begin, end);
        for (auto c = begin; c != end; ++c) {
            above += c->weight;
            if (above >= wanted) return *c;
        }
        return *(end - 1);
    }

    // Min-p and the draw among the candidates that come no later than `last` in order of size.
    int draw_down_to(const Candidate last) {
        gather(last.logit);
        auto& c = s_.candidates;
        const double least = p_.min_p[r_];
        double total = 0.0;
        for (Candidate& candidate : c) {
            const double w = last < candidate ? 0.0 : weight(candidate.logit);
            candidate.weight = w < least ? 0.0 : w;
            total += candidate.weight;
        }
        double running = 0.0;
        int id = c.front().id;
        for (const Candidate& candidate : c) {
            if (candidate.weight == 0.0) continue;
            id = candidate.id;
            running += candidate.weight;
            if (running > target_ * total) break;
        }
        return id;
    }

    // The inverse of the running sum over all weights, block by block, then within the block.
    int draw_from_weights() const {
        double total = 0.0, running = 0.0;
        for (double sum : s_.sums) total += sum;
        const double bar = target_ * total;
        size_t block = 0;
        while (block + 1 < s_.sums.size() && running + s_.sums[block] <= bar) running += s_.sums[block++];
        int last = -1;
        const int begin = static_cast<int>(block) * kSumBlock, end = std::min(n_, begin + kSumBlock);
        for (int i = begin; i < end; ++i) {
            if (s_.weights[i] == 0.0) continue;
            last = i;
            running += s_.weights[i];
            if (running > bar) return i;
        }
        // Only rounding brings us here: the block's sum passed the bar, its elements one by one did not.
        for (int i = begin; last < 0; --i) {
            if (s_.weights[i] != 0.0) last = i;
        }
        return last;
    }

    void weigh(double least) {
        s_.weights.resize(n_);
        s_.sums.resize((n_ + kSumBlock - 1) / kSumBlock);
        kernels_.weigh(x_, peak_, rate_, least, n_, s_.weights.data(), s_.sums.data());
    }

    double weight(float logit) const {
        double w, sum;
        kernels_.weigh(&logit, peak_, rate_, 0.0, 1, &w, &sum);
        return w;
    }

    const float* x_;
    int n_;
    const SampleParameters& p_;
    int r_;
    Scratch& s_;
    const VectorKernels& kernels_;
    float peak_ = 0.0f;
    double rate_ = 0.0, target_ = 0.0;
};

void check_rows(const char* name, size_t size, int rows) {
    if (size != static_cast<size_t>(rows)) {
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) + " rows, the logits have " +
                                    std::to_string(rows));
    }
}

void check_spans(const std::string& name, std::span<const int32_t> starts, std::span<const int32_t> ids, size_t values,
                 int rows, int vocab) {
    bool rising = starts.size() == static_cast<size_t>(rows) + 1 && starts.front() == 0 &&
                  static_cast<size_t>(starts.back()) == ids.size() && std::is_sorted(starts.begin(), starts.end());
    if (!rising) {
        throw std::invalid_argument(name + "_starts must rise from 0 to " + std::to_string(ids.size()) + " in " +
                                    std::to_string(rows + 1) + " entries");
    }
    if (values != ids.size()) {
        throw std::invalid_argument(name + " has " + std::to_string(ids.size()) + " ids but " + std::to_string(values) +
                                    " values");
    }
    for (int32_t id : ids) {
        if (id < 0 || id >= vocab) {
            throw std::invalid_argument(name + "_ids has " + std::to_string(id) + "; ids must lie in [0, " +
                                        std::to_string(vocab) + ")");
        }
    }
}

void check(const SampleParameters& p, int rows, int vocab) {
    check_rows("temperature", p.temperature.size(), rows);
    check_rows("top_k", p.top_k.size(), rows);
    check_rows("top_p", p.top_p.size(), rows);
    check_rows("min_p", p.min_p.size(), rows);
    check_rows("repetition", p.repetition.size(), rows);
    check_rows("presence", p.presence.size(), rows);
    check_rows("frequency", p.frequency.size(), rows);
    check_rows("seed", p.seed.size(), rows);
    check_rows("position", p.position.size(), rows);
    check_spans("seen", p.seen_starts, p.seen_ids, p.seen_output_counts.size(), rows, vocab);
    check_spans("bias", p.bias_starts, p.bias_ids, p.bias_values.size(), rows, vocab);
}

}  // namespace

double uniform(uint64_t seed, int32_t position) {
    uint32_t x[4] = {static_cast<uint32_t>(position), 0, 0, 0};
    uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * x[0], b = uint64_t{0xCD9E8D57} * x[2];
        const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ key[0], static_cast<uint32_t>(b),
                                  static_cast<uint32_t>(a >> 32) ^ x[3] ^ key[1], static_cast<uint32_t>(a)};
        std::copy_n(next, 4, x);
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
    return (x[0] >> 8) * 0x1p-24;
}

void sample(Pool& pool, const float* logits, int rows, int vocab, const SampleParameters& parameters, int32_t* out) {
    check(parameters, rows, vocab);
    if (rows == 0) return;
    std::vector<float> peak(rows);
    pool.run(rows, [&](int row) {
        static thread_local Scratch scratch;
        RowSampler sampler(logits + static_cast<size_t>(row) * vocab, vocab, parameters, row, scratch);
        out[row] = sampler.draw();
        peak[row] = sampler.peak();
    });
    for (int row = 0; row < rows; ++row) {
        if (out[row] < 0) {
            throw std::invalid_argument("row " + std::to_string(row) + " has no token to draw: the largest of its " +
                                        "logits is " + std::to_string(peak[row]));
        }
    }
}

}  // namespace russet
