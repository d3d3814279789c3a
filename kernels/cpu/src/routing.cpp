#include "routing.h"

#include <cmath>
#include <limits>

namespace russet {

namespace {

// Doubles, so that a libm's last bit hardly ever shows in the float that is kept.
void softmax_of_chosen(std::span<const float> logits, float largest, const Routing& routing, const int32_t* ids,
                       float* weights) {
    double powers[kMostChosen], total = 0.0;
    for (int rank = 0; rank < routing.top_k; ++rank) {
        powers[rank] = std::exp(static_cast<double>(logits[ids[rank]]) - largest);
        total += powers[rank];
    }
    if (!routing.normalize) {
        total = 0.0;
        for (float logit : logits) total += std::exp(static_cast<double>(logit) - largest);
    }
    for (int rank = 0; rank < routing.top_k; ++rank) weights[rank] = static_cast<float>(powers[rank] / total);
}

// Inserts in front of the first smaller score: equal ones stay in the order of their ids.
template <typename Score, typename ScoreOf>
void choose(int experts, int top_k, ScoreOf score_of, int32_t* ids) {
    Score best[kMostChosen];
    int count = 0;
    for (int expert = 0; expert < experts; ++expert) {
        const Score score = score_of(expert);
        if (count == top_k && !(score > best[count - 1])) continue;
        int at = count < top_k ? count++ : count - 1;
        for (; at > 0 && score > best[at - 1]; --at) {
            best[at] = best[at - 1];
            ids[at] = ids[at - 1];
        }
        best[at] = score;
        ids[at] = expert;
    }
}

}  // namespace

bool choose_experts(std::span<const float> logits, std::span<const uint8_t> resident, const Routing& routing,
                    int32_t* ids, float* weights) {
    const int experts = static_cast<int>(logits.size());
    float least = logits[0], largest = logits[0];
    bool finite = true;
    for (float logit : logits) {
        finite = finite && std::isfinite(logit);
        least = logit < least ? logit : least;
        largest = logit > largest ? logit : largest;
    }
    if (!finite) {
        for (int rank = 0; rank < routing.top_k; ++rank) {
            ids[rank] = rank;
            weights[rank] = std::numeric_limits<float>::quiet_NaN();
        }
        return false;
    }
    if (routing.bonus == 0.0f || resident.empty()) {
        choose<float>(experts, routing.top_k, [&](int expert) { return logits[expert]; }, ids);
    } else {
        const double range = static_cast<double>(largest) - least, per_logit = range > 0.0 ? 1.0 / range : 0.0;
        const double bonus = routing.bonus, origin = least;
        choose<double>(
            experts, routing.top_k,
            [&](int expert) { return (logits[expert] - origin) * per_logit + (resident[expert] ? bonus : 0.0); }, ids);
    }
    softmax_of_chosen(logits, largest, routing, ids, weights);
    return true;
}

float sigmoid(float x) { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(x)))); }

}  // namespace russet
