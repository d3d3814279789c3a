// Draws a token for each row of logits: kernels/sampling.py is the specification, stage by stage.
#pragma once

#include <cstdint>
#include <span>

namespace russet {

class Pool;

// kernels/logprobs.py: Logprobs.
struct WantedLogprobs {
    std::span<const int32_t> rows, tops;
    std::span<float> chosen;
    std::span<int32_t> top_ids;   // [rows][width]
    std::span<float> top_values;  // [rows][width]
    int width = 0;
    std::span<const int32_t> given;
};

// kernels/sampling.py: SampleBatch.
struct SampleParameters {
    std::span<const float> temperature;
    std::span<const int32_t> top_k;
    std::span<const float> top_p, min_p, repetition, presence, frequency;
    std::span<const uint64_t> seed;
    std::span<const int32_t> position;
    std::span<const int32_t> seen_starts, seen_ids, seen_output_counts;
    std::span<const int32_t> bias_starts, bias_ids;
    std::span<const float> bias_values;
    std::span<const int32_t> masked_rows;
    std::span<const uint32_t> masks;  // [masked rows][mask_words]
    int mask_words;
    WantedLogprobs logprobs;
};

// One token id per row of logits [rows][vocab] to out [rows]; a row's draw depends on nothing but the row. Throws
// std::invalid_argument for a malformed batch, and naming the row that has nothing to draw (all banned, or NaN).
void sample(Pool& pool, const float* logits, int rows, int vocab, const SampleParameters& parameters, int32_t* out);

// The row's one uniform, in units of 2^-24: the top 24 bits of the first word of Philox4x32-10 under the key (seed low,
// seed high) at the counter (position, 0, 0, 0) (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
uint32_t uniform(uint64_t seed, int32_t position);

}  // namespace russet
