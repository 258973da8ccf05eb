// A few threads that run one function together, and wait for one another inside it.
//
// When they have no work they spin for a moment, because the next work usually comes within microseconds, and then sleep. Work is divided
// by index (`share`), or a part of it is given to threads that are free (`hand_out`), because not all cores are always equally fast. For the
// same reason a call may name a team: some of the threads, with parts that differ (shares.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace rwkvquant {

// A clock that is cheap to read, in ticks of the CPU.
std::uint64_t ticks();

struct Range {
    std::size_t begin, end;
};

class ThreadPool;

// One thread's place in the pool, valid inside `run`.
struct Worker {
    ThreadPool* pool;
    std::size_t index, threads;
    const std::uint32_t* cuts = nullptr;  // (threads + 1,) where the part of each thread begins in 0..kWhole; null: equal parts

    static constexpr std::size_t kWhole = std::size_t{1} << 16;

    // Where the part of `thread` begins in 0..total.
    std::size_t begin_of(std::size_t thread, std::size_t total) const {
        return cuts == nullptr ? total * thread / threads : (total * cuts[thread] + kWhole / 2) / kWhole;
    }

    // Its part of 0..total, cut at multiples of `unit`: the parts of all threads cover it once.
    Range share(std::size_t total, std::size_t unit) const {
        const std::size_t units = (total + unit - 1) / unit;
        const auto cut = [&](std::size_t thread) {
            const std::size_t at = begin_of(thread, units) * unit;
            return at < total ? at : total;
        };
        return {cut(index), cut(index + 1)};
    }

    // All threads together call body(range) for ranges that cover 0..pieces once. The last `single` pieces are given one by one to threads
    // that are free, the others by index. Pieces should cost about the same. At most one such call between two barriers.
    template <typename Body>
    void hand_out(std::size_t pieces, std::size_t single, const Body& body) const {
        const std::size_t by_index = pieces - single;
        const Range own = {begin_of(index, by_index), begin_of(index + 1, by_index)};
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

// The threads of a pool that work on a call, in ascending order, beginning with the caller, 0. `cuts` as in Worker; empty: equal parts.
struct Team {
    std::vector<std::size_t> threads;
    std::vector<std::uint32_t> cuts;
};

class ThreadPool {
  public:
    // `threads` with the caller. Where the system gives fewer, the pool has those: see threads().
    explicit ThreadPool(std::size_t threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Calls work(worker) on all threads, including this one, or on those of a team, and returns when all have finished. Where the pool has
    // lost a thread of the team, all threads work. If threads threw, this throws what the first of them threw. One call at a time.
    void run(const std::function<void(const Worker&)>& work, const Team* team = nullptr);

    // How long each thread of the last call worked, without waiting at barriers, and how long the call took; both in ticks of the CPU.
    std::vector<std::uint64_t> busy() const;
    std::uint64_t time() const { return time_; }

    std::size_t threads() const { return threads_; }
    std::size_t asked() const { return asked_; }

  private:
    friend struct Worker;
    void start();
    void stop();
    void loop(std::size_t index);
    void wake(std::size_t index);
    void barrier(std::size_t index);
    void take_part(std::size_t index);

    // What belongs to one thread. It waits for its own number, so that threads that are not in the team sleep on.
    struct alignas(64) Thread {
        std::atomic<unsigned> call = 0;  // counts the calls of run that it takes part in
        std::size_t place = 0;           // in the team
        std::uint64_t started = 0, busy = 0;
    };

    const std::size_t asked_;
    std::size_t threads_ = 1;
    std::unique_ptr<Thread[]> own_;  // (asked_,)
    Team all_;
    const Team* team_ = &all_;  // of this call
    std::uint64_t time_ = 0;
    std::vector<std::thread> others_;
    long process_ = 0;  // the process of the threads: a forked child has none of them
    const std::function<void(const Worker&)>* work_ = nullptr;
    std::atomic<bool> stopping_ = false;
    std::atomic<bool> failed_ = false;  // a thread has thrown in this call of run
    std::exception_ptr thrown_;         // what the first of them threw
    std::mutex throwing_;
    alignas(64) std::atomic<unsigned> passed_ = 0;   // counts barriers
    alignas(64) std::atomic<unsigned> arrived_ = 0;  // threads at the current barrier
    alignas(64) std::atomic<unsigned> working_ = 0;  // other threads that have not finished this call of run
    alignas(64) std::atomic<std::size_t> taken_ = 0;  // pieces handed out since the last barrier
};

inline void Worker::barrier() const { pool->barrier(index); }
inline std::size_t Worker::take() const { return pool->taken_.fetch_add(1, std::memory_order_relaxed); }

}  // namespace rwkvquant
