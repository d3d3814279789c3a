#include "pool.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace russet {
namespace {

// Between two phases of a forward there are microseconds; between two forwards there may be hundreds. A worker waits
// awake for the first kind and asleep for the second.
constexpr auto kAwake = std::chrono::microseconds(100);
// A waiting thread spins this often, then gives its core away at each look: the chunk it waits for may be held by a
// thread that wants this very core.
constexpr int kSpins = 500;
constexpr int kMostThreads = 1024;

thread_local bool inside_chunk = false;

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

int processors() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

[[noreturn]] void refuse(int threads) {
    throw std::invalid_argument("threads is " + std::to_string(threads) + "; accepted: 0 (one per processor) to " +
                                std::to_string(kMostThreads));
}

constexpr uint64_t untaken(uint64_t ticket) { return ticket & 0xffffffffu; }

}  // namespace

Pool::Pool(int threads) { start(threads); }

Pool::~Pool() { stop(); }

void Pool::resize(int threads) {
    std::lock_guard turn(run_mutex_);
    if (threads < 0 || threads > kMostThreads) refuse(threads);
    stop();
    start(threads);
}

void Pool::start(int threads) {
    if (threads < 0 || threads > kMostThreads) refuse(threads);
    if (threads == 0) threads = processors();
    stopping_ = false;
    workers_.reserve(threads - 1);
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { worker(); });
    threads_ = threads;
}

void Pool::stop() {
    {
        std::lock_guard lock(sleep_mutex_);
        stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : workers_) thread.join();
    workers_.clear();
}

void Pool::run(int chunks, FunctionRef<void(int)> work) {
    if (chunks <= 0) return;
    if (inside_chunk || chunks == 1 || threads() == 1) {
        for (int i = 0; i < chunks; ++i) work(i);
        return;
    }
    std::lock_guard turn(run_mutex_);
    work_ = &work;
    chunks_ = chunks;
    done_.store(0, std::memory_order_relaxed);
    uint64_t phase = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    // Sequentially consistent, as is the count of sleepers: either we see the sleeper or it sees this phase.
    ticket_.store(phase << 32 | static_cast<uint32_t>(chunks), std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
        { std::lock_guard lock(sleep_mutex_); }
        wake_.notify_all();
    }
    work_through_phase();
    for (int spins = 0; done_.load(std::memory_order_acquire) != chunks; ++spins) {
        if (spins < kSpins) {
            relax();
        } else {
            std::this_thread::yield();
        }
    }
}

bool Pool::take_chunk(int& chunk) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (untaken(ticket) > 0) {
        if (ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
            chunk = chunks_ - static_cast<int>(untaken(ticket));
            return true;
        }
    }
    return false;
}

void Pool::work_through_phase() {
    inside_chunk = true;
    for (int chunk; take_chunk(chunk);) {
        (*work_)(chunk);
        done_.fetch_add(1, std::memory_order_release);
    }
    inside_chunk = false;
}

bool Pool::spin_for_phase() const {
    auto until = std::chrono::steady_clock::now() + kAwake;
    do {
        for (int spins = 0; spins < kSpins; ++spins) {
            if (untaken(ticket_.load(std::memory_order_relaxed)) > 0) return true;
            relax();
        }
        std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < until);
    return false;
}

void Pool::worker() {
    while (!stopping_.load(std::memory_order_relaxed)) {
        work_through_phase();
        if (spin_for_phase()) continue;
        std::unique_lock lock(sleep_mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [this] {
            return stopping_.load(std::memory_order_relaxed) || untaken(ticket_.load(std::memory_order_seq_cst)) > 0;
        });
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
}

Pool& pool() {
    static Pool instance(0);
    return instance;
}

}  // namespace russet
