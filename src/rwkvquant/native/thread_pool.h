// A few threads that run one function together, and wait for one another inside it.
//
// They spin for a moment, because the next piece of work is usually microseconds away, and then sleep. Work is shared by index alone
// (`share`), or in part dealt to whoever is free (`deal`): cores that look alike are not always equally fast.
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

    // Calls body(range) for ranges that cover 0..pieces once, on all threads together: the last `single` of them one by one as threads
    // get free, the others by index. Pieces cost about the same. At most one such call between two barriers.
    template <typename Body>
    void deal(std::size_t pieces, std::size_t single, const Body& body) const {
        const std::size_t by_index = pieces - single;
        const Range own = {by_index * index / threads, by_index * (index + 1) / threads};
        if (own.begin < own.end) body(own);
        if (single == 0) return;
        for (std::size_t piece = by_index + take(); piece < pieces; piece = by_index + take()) body(Range{piece, piece + 1});
    }

    // Returns when all threads have called it as often; what they wrote before is seen by all. Throws where another thread has thrown:
    // it will never come.
    void barrier() const;

  private:
    std::size_t take() const;
};

class ThreadPool {
  public:
    // Where the system gives fewer threads, those that it gives are used.
    explicit ThreadPool(std::size_t threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Calls work(worker) on all threads, this one among them, and returns when all have finished. If any threw, so does this, what the
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
    long process_ = 0;  // whose threads they are: a forked child has none of them
    const std::function<void(const Worker&)>* work_ = nullptr;
    std::atomic<bool> stopping_ = false;
    std::atomic<bool> failed_ = false;  // a thread has thrown in this call of run
    std::exception_ptr thrown_;         // what the first of them threw
    std::mutex throwing_;
    alignas(64) std::atomic<unsigned> turn_ = 0;     // counts calls of run
    alignas(64) std::atomic<unsigned> passed_ = 0;   // counts barriers
    alignas(64) std::atomic<unsigned> arrived_ = 0;  // threads at the present barrier
    alignas(64) std::atomic<unsigned> working_ = 0;  // other threads that have not finished this call of run
    alignas(64) std::atomic<std::size_t> taken_ = 0;  // pieces dealt since the last barrier
};

inline void Worker::barrier() const { pool->barrier(); }
inline std::size_t Worker::take() const { return pool->taken_.fetch_add(1, std::memory_order_relaxed); }

}  // namespace rwkvquant
