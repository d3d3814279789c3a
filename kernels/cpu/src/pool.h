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

class Pool {
  public:
    // `threads` >= 1 work on each phase, the caller of run among them; 0 takes one per processor this process may use.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_.load(std::memory_order_relaxed); }

    // As the constructor. Waits for a phase that is running; must not be called from a chunk.
    void resize(int threads);

    // Call work(i) once for every i in [0, chunks), on any thread, in any order; return when all are done. `work` must
    // not throw. Callers on several threads take turns; a run inside a chunk is done by the calling thread alone.
    void run(int chunks, FunctionRef<void(int chunk)> work);

  private:
    void start(int threads);
    void stop();
    bool take_chunk(int& chunk);
    void work_through_phase();
    void worker();
    bool spin_for_phase() const;

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

// The pool of the process, made on first use with one thread per processor. Resize it to change that.
Pool& pool();

}  // namespace russet
