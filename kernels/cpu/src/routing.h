// Which experts a token goes through: top-k of its router logits, with a bonus for experts that are in memory.
#pragma once

#include <cstdint>
#include <span>

namespace russet {

struct Routing {
    int top_k;
    // Weights are the softmax over the chosen experts alone; otherwise over all.
    bool normalize;
    // Added to the score of a resident expert. Scores are logits scaled to 0..1 between the token's least and largest, so
    // that what the bonus does depends on neither their scale nor their offset. 0 chooses by the logits themselves.
    float bonus = 0.0f;
};

constexpr int kMostChosen = 64;

// Chooses the top_k best scores of one token's logits, best first, ties to the lower id. resident: a byte per expert, or
// empty where there is no bonus. Weights come from the logits, never from the bonus. Returns whether all logits are
// finite; where not, the first ids are chosen and their weights are NaN. top_k is at most kMostChosen and the experts.
bool choose_experts(std::span<const float> logits, std::span<const uint8_t> resident, const Routing& routing,
                    int32_t* ids, float* weights);

float sigmoid(float x);

}  // namespace russet
