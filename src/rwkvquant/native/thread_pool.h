// A few threads that run one function together, and wait for one another inside it.
//
// When they have no work they spin for a moment, because the next work usually comes within microseconds, and then sleep. Work is divided
// by index (`share`), or a part of it is given to threads that are free (`hand_out`), because not all cores are always equally fast.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace rwkvquant {

struct Range {
    std::size_t begin, end;
};

class ThreadPool;

// One thread's place in the pool, valid inside `run`.
struct Worker {
    ThreadPool* pool;
    std::size_t index, threads;

    // Its part of 0..total, cut at multiples of `unit`: the parts of all threads cover it once.
    Range share(std::size_t total, std::size_t unit) const {
        const std::size_t units = (total + unit - 1) / unit;
        const auto cut = [&](std::size_t thread) {
            const std::size_t at = units * thread / threads * unit;
            return at < total ? at : total;
        };
        return {cut(index), cut(index + 1)};
    }

    // All threads together call body(range) for ranges that cover 0..pieces once. The last `single` pieces are given one by one to threads
    // that are free, the others by index. Pieces should cost about the same. At most one such call between two barriers.
    template <typename Body>
    void hand_out(std::size_t pieces, std::size_t single, const Body& body) const {
        const std::size_t by_index = pieces - single;
        const Range own = {by_index * index / threads, by_index * (index + 1) / threads};
        if (own.begin < own.end) body(own);
        if (single == 0) return;
        for (std::size_t piece = by_index + take(); piece < pieces; piece = by_index + take()) body(Range{piece, piece + 1});
    }

    // Returns when all threads have reached this barrier; then all see what the others wrote before it. Throws if another thread has
    // thrown, because that one never comes.
    void barrier() const;

  private:
    std::size_t take() const;
};

class ThreadPool {
  public:
    // `threads` with the caller. Where the system gives fewer, the pool has those: see threads().
    explicit ThreadPool(std::size_t threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Calls work(worker) on all threads, including this one, and returns when all have finished. If threads threw, this throws what the
    // first of them threw. One call at a time.
    void run(const std::function<void(const Worker&)>& work);

    std::size_t threads() const { return threads_; }
    std::size_t asked() const { return asked_; }

  private:
    friend struct Worker;
    void start();
    void stop();
    void loop(std::size_t index, unsigned seen);
    void barrier();
    void take_part(std::size_t index);

    const std::size_t asked_;
    std::size_t threads_ = 1;
    std::vector<std::thread> others_;
    long process_ = 0;  // the process of the threads: a forked child has none of them
    const std::function<void(const Worker&)>* work_ = nullptr;
    std::atomic<bool> stopping_ = false;
    std::atomic<bool> failed_ = false;  // a thread has thrown in this call of run
    std::exception_ptr thrown_;         // what the first of them threw
    std::mutex throwing_;
    alignas(64) std::atomic<unsigned> calls_ = 0;     // counts calls of run
    alignas(64) std::atomic<unsigned> passed_ = 0;   // counts barriers
    alignas(64) std::atomic<unsigned> arrived_ = 0;  // threads at the current barrier
    alignas(64) std::atomic<unsigned> working_ = 0;  // other threads that have not finished this call of run
    alignas(64) std::atomic<std::size_t> taken_ = 0;  // pieces handed out since the last barrier
};

inline void Worker::barrier() const { pool->barrier(); }
inline std::size_t Worker::take() const { return pool->taken_.fetch_add(1, std::memory_order_relaxed); }

}  // namespace rwkvquant
