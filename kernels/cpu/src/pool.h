// Threads that work through phases of chunks.
//
// A phase ends when all its chunks are done, not when all threads have arrived: on a shared machine a thread that the
// system has descheduled costs the chunk it holds, never a whole phase. Give a phase two or more chunks per thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace russet {

// A callable borrowed for the length of a call; it must outlive it.
template <typename Signature>
class FunctionRef;

template <typename Result, typename... Args>
class FunctionRef<Result(Args...)> {
  public:
    template <typename F>
        requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>)
    FunctionRef(F&& f)  // NOLINT: implicit, so that lambdas can be passed
            : object_(const_cast<void*>(static_cast<const void*>(&f))), call_([](void* object, Args... args) -> Result {
                    return (*static_cast<std::remove_reference_t<F>*>(object))(args...);
                }) {}
    Result operator()(Args... args) const { return call_(object_, args...); }

  private:
    void* object_;
    Result (*call_)(void*, Args...);
};

struct PoolSettings {
    // How many work on each phase, the caller of run among them; 0 is one per entry of `cpus`, or where that is empty
    // one per processor this process may use.
    int threads = 0;
    // Processors that the threads are bound to, one each, the caller of set on the first. Empty: the system places them.
    std::vector<int> cpus{};
    // How long a thread without work waits awake for the next phase before it sleeps, microseconds. Between two phases
    // of a forward there are microseconds; between two forwards there may be hundreds.
    int awake_us = 100;
};

class Pool {
  public:
    explicit Pool(PoolSettings settings);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_.load(std::memory_order_relaxed); }

    // As the constructor. Waits for a phase that is running; must not be called from a chunk. Throws invalid_argument
    // for settings that cannot be honoured, and changes nothing then.
    void set(PoolSettings settings);

    // Call work(i) once for every i in [0, chunks), on any thread, in any order; return when all are done. `work` must
    // not throw. Callers on several threads take turns; a run inside a chunk is done by the calling thread alone.
    void run(int chunks, FunctionRef<void(int chunk)> work);

  private:
    void start();
    void stop();
    bool take_chunk(int& chunk);
    void work_through_phase();
    void worker();
    bool wait_awake() const;

    PoolSettings settings_;  // Changed only while there are no workers.

    // A phase and its chunks not yet taken, in one word: phase << 32 | untaken. A chunk is taken by lowering it, which
    // fails when the phase has moved on, so a thread that slept through a phase can never touch the next one's work.
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int> done_{0};
    const FunctionRef<void(int)>* work_ = nullptr;  // Of the phase; stable while a taken chunk is not done.
    int chunks_ = 0;

    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> stopping_{false};
    std::mutex sleep_mutex_;
    std::condition_variable wake_;
    std::mutex run_mutex_;
    std::atomic<int> threads_{1};
    std::vector<std::thread> workers_;
};

// The pool that the calling thread's work runs on: its own where own_pool gave it one, otherwise that of the process,
// which is made on first use with one thread per processor.
Pool& pool();

// Give the calling thread a pool of its own, or change the settings of the one it has. The pool ends with the thread.
void own_pool(PoolSettings settings);

}  // namespace russet
