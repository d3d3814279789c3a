// Which experts of a layer are in memory, within a budget: decisions alone, made alike from alike steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace russet {

// What a page waits for: a step that stands still (in), nobody (out), or a step to come (in, foreseen).
enum class Urgency : uint8_t { Urgent, Normal, Prefetch };

struct PageRequest {
    int32_t expert;
    bool in;
    Urgency urgency;
};

struct ExpertCounts {
    uint64_t hits = 0, misses = 0;  // of chosen experts, by what was in memory when their token was routed
    uint64_t decisions = 0;         // tokens routed
    uint64_t paged_in = 0, paged_out = 0, foreseen = 0;  // experts; those foreseen are among those paged in
};

// An expert's affinity is an exponential mean of how often it is chosen: with each token 0.99 of it stays, and 0.01 is
// added where the token chose it. Room is made by the expert chosen longest ago that the step does not want, of several
// the least affine, then the lower id.
class ExpertCache {
  public:
    static constexpr double kDecay = 0.99;

    // expert_bytes: of the largest expert. Throws std::invalid_argument where the budget holds none.
    ExpertCache(int experts, size_t expert_bytes, size_t budget_bytes);

    std::span<const uint8_t> resident() const { return resident_; }  // a byte per expert
    std::span<const double> affinity() const { return affinity_; }
    size_t cached_bytes() const { return cached_ * expert_bytes_; }  // never more than the budget
    const ExpertCounts& counts() const { return counts_; }

    // A token chose `ids`.
    void record(std::span<const int32_t> ids);
    // Makes room for as many of `wanted` (distinct) as fit, in their order, and marks them resident. Writes what is to be
    // paged, in the order to do it in: every in (urgent) after the out that makes room for it.
    void admit(std::span<const int32_t> wanted, std::vector<PageRequest>& requests);
    // At most one exchange, for the most affine of those that are not resident, of a resident that was not chosen for long
    // and is far less affine.
    void foresee(std::vector<PageRequest>& requests);

  private:
    // The resident to go first, of those not spared; -1 where there is none.
    int victim() const;
    void page_out(int expert, std::vector<PageRequest>& requests);
    void page_in(int expert, Urgency urgency, std::vector<PageRequest>& requests);

    size_t expert_bytes_, slots_, cached_ = 0;
    std::vector<uint8_t> resident_, spared_;
    std::vector<double> affinity_;
    std::vector<uint64_t> last_chosen_;  // by the number of the decision; 0: never
    ExpertCounts counts_;
};

}  // namespace russet
