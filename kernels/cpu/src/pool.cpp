#include "pool.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace russet {
namespace {

// A waiting thread spins this often, then gives its core away at each look: the chunk it waits for may be held by a
// thread that wants this very core.
constexpr int kSpins = 500;
constexpr int kLongestAwakeUs = 1'000'000;
constexpr int kMostThreads = 1024;

thread_local bool inside_chunk = false;

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

#if defined(__linux__)
// What the process may run on. Asked of its first thread: the caller may be bound to one of them already.
cpu_set_t allowed() {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(getpid(), sizeof(set), &set);
    return set;
}
#endif

int processors() {
#if defined(__linux__)
    const cpu_set_t set = allowed();
    if (CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

[[noreturn]] void refuse(const std::string& what, const std::string& accepted) {
    throw std::invalid_argument(what + "; accepted: " + accepted);
}

std::string listed(const std::vector<int>& cpus) {
    std::string text;
    for (int cpu : cpus) text += (text.empty() ? "" : ", ") + std::to_string(cpu);
    return text;
}

void check_cpus(const std::vector<int>& cpus) {
#if defined(__linux__)
    const cpu_set_t set = allowed();
    std::vector<int> known;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) known.push_back(cpu);
    }
    for (size_t i = 0; i < cpus.size(); ++i) {
        const bool repeated = std::find(cpus.begin(), cpus.begin() + i, cpus[i]) != cpus.begin() + i;
        if (repeated || std::find(known.begin(), known.end(), cpus[i]) == known.end()) {
            refuse("cpus are " + listed(cpus), "different ones of those this process may use: " + listed(known));
        }
    }
#else
    if (!cpus.empty()) refuse("cpus are " + listed(cpus), "none: this system does not bind threads to processors");
#endif
}

// The settings with `threads` known. Throws invalid_argument where they cannot be honoured.
PoolSettings resolved(PoolSettings settings) {
    if (settings.threads < 0 || settings.threads > kMostThreads) {
        refuse("threads is " + std::to_string(settings.threads),
               "0 (one per processor) to " + std::to_string(kMostThreads));
    }
    if (settings.awake_us < 0 || settings.awake_us > kLongestAwakeUs) {
        refuse("awake_us is " + std::to_string(settings.awake_us), "0 to " + std::to_string(kLongestAwakeUs));
    }
    check_cpus(settings.cpus);
    const int cpus = static_cast<int>(settings.cpus.size());
    if (settings.threads == 0) settings.threads = cpus > 0 ? cpus : processors();
    if (cpus > 0 && settings.threads != cpus) {
        refuse("threads is " + std::to_string(settings.threads) + " for " + std::to_string(cpus) + " cpus",
               "as many threads as cpus, or threads = 0");
    }
    return settings;
}

// Bind a thread to a processor; -1 lets it run on all that the process may use.
void bind(pthread_t thread, int cpu) {
#if defined(__linux__)
    cpu_set_t set = allowed();
    if (cpu >= 0) {
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
    }
    pthread_setaffinity_np(thread, sizeof(set), &set);  // a processor taken away meanwhile leaves it where it was
#endif
}

thread_local std::unique_ptr<Pool> own;

constexpr uint64_t untaken(uint64_t ticket) { return ticket & 0xffffffffu; }

}  // namespace

Pool::Pool(PoolSettings settings) : settings_(resolved(std::move(settings))) { start(); }

Pool::~Pool() { stop(); }

void Pool::set(PoolSettings settings) {
    std::lock_guard turn(run_mutex_);
    settings = resolved(std::move(settings));
    stop();
    if (!settings_.cpus.empty() && settings.cpus.empty()) bind(pthread_self(), -1);
    settings_ = std::move(settings);
    start();
}

void Pool::start() {
    stopping_ = false;
    const bool bound = !settings_.cpus.empty();
    if (bound) bind(pthread_self(), settings_.cpus[0]);
    workers_.reserve(settings_.threads - 1);
    for (int i = 1; i < settings_.threads; ++i) {
        std::thread& thread = workers_.emplace_back([this] { worker(); });
#if defined(__linux__)
        pthread_setname_np(thread.native_handle(), ("russet-pool-" + std::to_string(i)).c_str());
#endif
        if (bound) bind(thread.native_handle(), settings_.cpus[i]);
    }
    threads_ = settings_.threads;
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

bool Pool::wait_awake() const {
    auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(settings_.awake_us);
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
        if (wait_awake()) continue;
        std::unique_lock lock(sleep_mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [this] {
            return stopping_.load(std::memory_order_relaxed) || untaken(ticket_.load(std::memory_order_seq_cst)) > 0;
        });
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
}

Pool& pool() {
    if (own) return *own;
    static Pool instance{PoolSettings{}};
    return instance;
}

void own_pool(PoolSettings settings) {
    if (own) {
        own->set(std::move(settings));
    } else {
        own = std::make_unique<Pool>(std::move(settings));
    }
}

}  // namespace russet
