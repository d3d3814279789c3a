// One row on its way through the stages of kernels/sampling.py.
#pragma once

#include <cstdint>
#include <vector>

#include "sampling.h"
#include "sampling_nucleus.h"
#include "vector_kernels.h"

namespace russet {

// What one row needs; a thread uses it for row after row.
struct SampleScratch {
    std::vector<float> logits;       // adjusted, where anything is
    std::vector<float> kept_logits;  // of top-k, in vocabulary order
    std::vector<int32_t> kept_ids;
    std::vector<float> maxima, ranked;
    std::vector<int32_t> weights;
    std::vector<int64_t> sums;
    NucleusScratch nucleus;
};

class RowSampler {
  public:
    // `mask` is the row's, or null where it has none.
    RowSampler(const float* logits, int vocab, const SampleParameters& parameters, int row, const uint32_t* mask,
               SampleScratch& scratch)
        : x_(logits), n_(vocab), p_(parameters), r_(row), mask_(mask), s_(scratch), kernels_(vector_kernels()) {}

    // The token; -1 where the largest logit is not finite (`peak` then says what it is).
    int draw();

    float peak() const { return peak_; }

    // On a sampler that has drawn nothing: kernels/logprobs.py, `tell`, of `id` and of the `top` likeliest ids. The sum
    // is of the integer weights at temperature 1: the same in any order and on every instruction set, and at most 5e-5
    // of itself off over 50,000 ids.
    void tell(int32_t id, int top, float* chosen, int32_t* top_ids, float* top_values);

  private:
    bool banned(int id) const;
    void adjust();
    void find_peak();
    int first_peak() const;
    float bound_of_top_k(int k);
    void keep_top_k(int k);
    void weigh(double temperature);
    int64_t total() const;
    int32_t least_of_nucleus();
    int draw_from(int32_t least);

    const float* x_;
    int n_;
    const SampleParameters& p_;
    int r_;
    const uint32_t* mask_;
    SampleScratch& s_;
    const VectorKernels& kernels_;
    float peak_ = 0.0f;
};

}  // namespace russet
