// Experts that lie on disk, as they are packed, and are read into a budget of memory when tokens choose them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "expert_cache.h"
#include "linear.h"

namespace russet {

struct Expert {
    Matrix gate, up, down;
    size_t nbytes() const { return gate->nbytes() + up->nbytes() + down->nbytes(); }
};

// Packed experts in a file, by number. What is read is what was written, bit for bit.
class ExpertFile {
  public:
    // Keeps a descriptor of its own to an open file. Throws std::system_error.
    explicit ExpertFile(int descriptor);
    ~ExpertFile();
    ExpertFile(const ExpertFile&) = delete;
    ExpertFile& operator=(const ExpertFile&) = delete;

    // Throws std::system_error where the disk is full or broken, as `read` does.
    void append(const Expert& expert);
    // On any thread, while nothing is appended.
    Expert read(size_t number) const;
    size_t size() const { return entries_.size(); }
    size_t largest() const { return largest_; }  // bytes of an expert
    size_t nbytes() const { return end_; }

  private:
    struct Place {
        PackedView view;
        size_t start, value_bytes, scale_bytes;
    };
    struct Entry {
        Place gate, up, down;
    };
    Place append(const PackedMatrix& matrix);
    Matrix read(const Place& place) const;

    int descriptor_;
    size_t end_ = 0, largest_ = 0;
    std::vector<Entry> entries_;
};

// The experts of all mixtures of a model, an equal part of the budget for each layer. One thread computes and calls;
// another reads what the next layer will likely want. A layer is routed only when what was foreseen for it is there, so
// that what is resident depends on the steps alone and not on how fast the disk is.
class ExpertPager {
  public:
    // The file has `layers` times `experts` experts, layer by layer. bonus: see Routing. Throws std::invalid_argument
    // where a layer's part of the budget does not hold `least` experts.
    ExpertPager(std::shared_ptr<const ExpertFile> file, int layers, int experts, size_t budget_bytes, int least,
                float bonus);
    ~ExpertPager();

    float bonus() const { return bonus_; }
    size_t budget_bytes() const { return budget_bytes_; }
    // What is resident of a layer, once it is. Throws what reading threw, as `admit` does.
    std::span<const uint8_t> route(int layer);
    // The step's tokens chose ids [tokens][top_k], which took so long; has the next layer's likely experts read meanwhile.
    void record(int layer, std::span<const int32_t> ids, int top_k, uint64_t nanoseconds);
    // Reads as many of `wanted` as fit; those of them that are there now, in `ready`, stay until the next call.
    void admit(int layer, std::span<const int32_t> wanted, std::vector<int32_t>& ready);
    const Expert& expert(int layer, int expert) const { return layers_[layer].experts[expert]; }

    struct Totals : ExpertCounts {
        uint64_t bytes_in = 0, decision_nanoseconds = 0, cached_bytes = 0;
    };
    Totals totals() const;  // on any thread

  private:
    struct Layer {
        ExpertCache cache;
        std::vector<Expert> experts;  // null where not resident
        std::vector<uint8_t> resident;
    };
    void carry_out(int layer, std::span<const PageRequest> requests);
    void foresee(int layer);
    void wait_for_reader();
    void reader();
    void tell_totals();

    std::shared_ptr<const ExpertFile> file_;
    size_t budget_bytes_;
    float bonus_;
    std::vector<Layer> layers_;
    std::vector<PageRequest> requests_;  // the computing thread's

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<PageRequest> foreseen_;  // being read, for foreseen_layer_
    int foreseen_layer_ = -1;            // -1: the reader has nothing to do
    bool stopping_ = false;
    std::exception_ptr failure_;

    uint64_t bytes_in_ = 0, decision_nanoseconds_ = 0;
    mutable std::mutex totals_mutex_;
    Totals totals_;
    std::thread thread_;
};

}  // namespace russet
