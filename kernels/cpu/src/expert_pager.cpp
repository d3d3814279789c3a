#include "expert_pager.h"

#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

namespace russet {

namespace {

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

void write_all(int descriptor, const void* data, size_t size, size_t at) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    while (size > 0) {
        const ssize_t written = pwrite(descriptor, bytes, size, static_cast<off_t>(at));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail("writing experts to disk");
        bytes += written, at += written, size -= written;
    }
}

void read_all(int descriptor, uint8_t* bytes, size_t size, size_t at) {
    while (size > 0) {
        const ssize_t got = pread(descriptor, bytes, size, static_cast<off_t>(at));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("reading an expert from disk");
        if (got == 0) throw std::system_error(EIO, std::generic_category(), "the file of experts was cut");
        bytes += got, at += got, size -= got;
    }
}

}  // namespace

ExpertFile::ExpertFile(int descriptor) : descriptor_(dup(descriptor)) {
    if (descriptor_ < 0) fail("the file of experts");
}

ExpertFile::~ExpertFile() { close(descriptor_); }

ExpertFile::Place ExpertFile::append(const PackedMatrix& matrix) {
    const PackedView& view = matrix.view();
    const size_t values = view.block_bytes() * view.blocks;
    const size_t scales = view.quantized() ? view.block_scale_bytes() * view.blocks : 0;
    write_all(descriptor_, view.values, values, end_);
    write_all(descriptor_, view.scales, scales, end_ + values);
    const Place place{view, end_, values, scales};
    end_ += values + scales;
    return place;
}

void ExpertFile::append(const Expert& expert) {
    const size_t before = end_;
    entries_.push_back({append(*expert.gate), append(*expert.up), append(*expert.down)});
    largest_ = std::max(largest_, end_ - before);
}

Matrix ExpertFile::read(const Place& place) const {
    AlignedBytes values(place.value_bytes), scales(place.scale_bytes);
    read_all(descriptor_, values.data(), place.value_bytes, place.start);
    read_all(descriptor_, scales.data(), place.scale_bytes, place.start + place.value_bytes);
    return std::make_shared<const PackedMatrix>(place.view, std::move(values), std::move(scales));
}

Expert ExpertFile::read(size_t number) const {
    const Entry& entry = entries_.at(number);
    return {read(entry.gate), read(entry.up), read(entry.down)};
}

ExpertPager::ExpertPager(std::shared_ptr<const ExpertFile> file, int layers, int experts, size_t budget_bytes,
                         int least, float bonus)
    : file_(std::move(file)), budget_bytes_(budget_bytes), bonus_(bonus) {
    if (layers < 1 || experts < 1 || file_->size() != static_cast<size_t>(layers) * experts) {
        throw std::invalid_argument("the file has " + std::to_string(file_->size()) + " experts; accepted: " +
                                    std::to_string(layers) + " layers of " + std::to_string(experts));
    }
    if (!(bonus >= 0.0f && bonus <= 1.0f)) {
        throw std::invalid_argument("bonus is " + std::to_string(bonus) + "; accepted: 0 to 1");
    }
    const size_t wanted = file_->largest() * layers * least;
    if (budget_bytes < wanted) {
        throw std::invalid_argument("memory for experts is " + std::to_string(budget_bytes) + " bytes; accepted: " +
                                    std::to_string(wanted) + " or more, " + std::to_string(least) +
                                    " experts for each of " + std::to_string(layers) + " layers");
    }
    for (int layer = 0; layer < layers; ++layer) {
        layers_.push_back({ExpertCache(experts, file_->largest(), budget_bytes / layers),
                           std::vector<Expert>(experts), std::vector<uint8_t>(experts, 0)});
    }
    thread_ = std::thread([this] { reader(); });
}

ExpertPager::~ExpertPager() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void ExpertPager::carry_out(int layer, std::span<const PageRequest> requests) {
    Layer& own = layers_[layer];
    for (const PageRequest& request : requests) {
        own.experts[request.expert] =
            request.in ? file_->read(layer * own.experts.size() + request.expert) : Expert{};
    }
}

void ExpertPager::wait_for_reader() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return foreseen_layer_ < 0; });
    if (failure_) std::rethrow_exception(failure_);
}

std::span<const uint8_t> ExpertPager::route(int layer) {
    wait_for_reader();
    // A copy: bits change while a step is admitted, and its tokens are judged by those it began with.
    const std::span<const uint8_t> now = layers_[layer].cache.resident();
    layers_[layer].resident.assign(now.begin(), now.end());
    return layers_[layer].resident;
}

void ExpertPager::record(int layer, std::span<const int32_t> ids, int top_k, uint64_t nanoseconds) {
    for (size_t at = 0; at < ids.size(); at += top_k) layers_[layer].cache.record(ids.subspan(at, top_k));
    decision_nanoseconds_ += nanoseconds;
    if (layers_.size() > 1) foresee((layer + 1) % static_cast<int>(layers_.size()));
}

void ExpertPager::foresee(int layer) {
    requests_.clear();
    layers_[layer].cache.foresee(requests_);
    if (requests_.empty()) return;
    bytes_in_ += file_->largest();
    {
        std::lock_guard<std::mutex> lock(mutex_);
        foreseen_.swap(requests_);
        foreseen_layer_ = layer;
    }
    changed_.notify_all();
}

void ExpertPager::reader() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        changed_.wait(lock, [&] { return stopping_ || foreseen_layer_ >= 0; });
        if (stopping_) return;
        const int layer = foreseen_layer_;
        lock.unlock();
        std::exception_ptr failure;
        try {
            carry_out(layer, foreseen_);
        } catch (...) {
            failure = std::current_exception();  // the computing thread throws it
        }
        lock.lock();
        failure_ = failure;
        foreseen_layer_ = -1;
        changed_.notify_all();
    }
}

void ExpertPager::admit(int layer, std::span<const int32_t> wanted, std::vector<int32_t>& ready) {
    requests_.clear();
    layers_[layer].cache.admit(wanted, requests_);
    carry_out(layer, requests_);
    for (const PageRequest& request : requests_) bytes_in_ += request.in ? file_->largest() : 0;
    ready.clear();
    for (int32_t expert : wanted) {
        if (layers_[layer].cache.resident()[expert]) ready.push_back(expert);
    }
    tell_totals();
}

void ExpertPager::tell_totals() {
    Totals sum;
    for (const Layer& layer : layers_) {
        const ExpertCounts& own = layer.cache.counts();
        sum.hits += own.hits, sum.misses += own.misses, sum.decisions += own.decisions;
        sum.paged_in += own.paged_in, sum.paged_out += own.paged_out, sum.foreseen += own.foreseen;
        sum.cached_bytes += layer.cache.cached_bytes();
    }
    sum.bytes_in = bytes_in_;
    sum.decision_nanoseconds = decision_nanoseconds_;
    std::lock_guard<std::mutex> lock(totals_mutex_);
    totals_ = sum;
}

ExpertPager::Totals ExpertPager::totals() const {
    std::lock_guard<std::mutex> lock(totals_mutex_);
    return totals_;
}

}  // namespace russet
