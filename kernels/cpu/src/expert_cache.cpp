#include "expert_cache.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace russet {

namespace {

// A foreseen exchange is of an expert that no token chose for so many decisions, for one so much more affine: with less,
// experts chosen alike would take turns in memory.
constexpr uint64_t kIdle = 64;
constexpr double kPays = 4.0;

}  // namespace

ExpertCache::ExpertCache(int experts, size_t expert_bytes, size_t budget_bytes)
    : expert_bytes_(expert_bytes),
      slots_(expert_bytes == 0 ? 0 : std::min<size_t>(experts, budget_bytes / expert_bytes)),
      resident_(experts, 0),
      spared_(experts, 0),
      affinity_(experts, 0.0),
      last_chosen_(experts, 0) {
    if (slots_ == 0) {
        throw std::invalid_argument("a layer's experts have " + std::to_string(budget_bytes) +
                                    " bytes of memory; one of them takes " + std::to_string(expert_bytes));
    }
}

void ExpertCache::record(std::span<const int32_t> ids) {
    ++counts_.decisions;
    for (double& affinity : affinity_) affinity *= kDecay;
    for (int32_t id : ids) {
        affinity_[id] += 1.0 - kDecay;
        last_chosen_[id] = counts_.decisions;
        ++(resident_[id] ? counts_.hits : counts_.misses);
    }
}

int ExpertCache::victim() const {
    int first = -1;
    for (int expert = 0; expert < static_cast<int>(resident_.size()); ++expert) {
        if (!resident_[expert] || spared_[expert]) continue;
        if (first < 0 || last_chosen_[expert] < last_chosen_[first] ||
            (last_chosen_[expert] == last_chosen_[first] && affinity_[expert] < affinity_[first])) {
            first = expert;
        }
    }
    return first;
}

void ExpertCache::page_out(int expert, std::vector<PageRequest>& requests) {
    resident_[expert] = 0;
    --cached_;
    ++counts_.paged_out;
    requests.push_back({expert, false, Urgency::Normal});
}

void ExpertCache::page_in(int expert, Urgency urgency, std::vector<PageRequest>& requests) {
    resident_[expert] = 1;
    ++cached_;
    ++counts_.paged_in;
    requests.push_back({expert, true, urgency});
}

void ExpertCache::admit(std::span<const int32_t> wanted, std::vector<PageRequest>& requests) {
    std::fill(spared_.begin(), spared_.end(), 0);
    for (int32_t expert : wanted) spared_[expert] = 1;
    for (int32_t expert : wanted) {
        if (resident_[expert]) continue;
        if (cached_ == slots_) {
            const int out = victim();
            if (out < 0) return;
            page_out(out, requests);
        }
        page_in(expert, Urgency::Urgent, requests);
    }
}

void ExpertCache::foresee(std::vector<PageRequest>& requests) {
    int best = -1;
    for (int expert = 0; expert < static_cast<int>(resident_.size()); ++expert) {
        if (resident_[expert]) continue;
        if (best < 0 || affinity_[expert] > affinity_[best]) best = expert;
    }
    if (best < 0 || affinity_[best] < 1.0 - kDecay) return;  // not chosen of late
    if (cached_ == slots_) {
        std::fill(spared_.begin(), spared_.end(), 0);
        const int out = victim();
        if (counts_.decisions - last_chosen_[out] < kIdle || affinity_[best] < kPays * affinity_[out]) return;
        page_out(out, requests);
    }
    page_in(best, Urgency::Prefetch, requests);
    // It is given time to be chosen, or it would be the next to go.
    last_chosen_[best] = std::max(last_chosen_[best], counts_.decisions - std::min(counts_.decisions, kIdle / 2));
    ++counts_.foreseen;
}

}  // namespace russet
