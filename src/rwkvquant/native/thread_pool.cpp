#include "thread_pool.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(RWKVQUANT_X86)
#include <immintrin.h>
#endif

namespace rwkvquant {
namespace {

// About 50 microseconds between calls and 100 at a barrier: far longer than neighbours differ, far shorter than a time slice.
constexpr int kIdleSpins = 2000, kBarrierSpins = 4000;

void pause() {
#if defined(RWKVQUANT_X86)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

// Waits until the value is no longer `old`.
void wait_for_change(const std::atomic<unsigned>& value, unsigned old, int spins) {
    for (; spins > 0; --spins) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

long process_id() {
#if defined(__unix__) || defined(__APPLE__)
    return static_cast<long>(getpid());
#else
    return 1;
#endif
}

}  // namespace

ThreadPool::ThreadPool(std::size_t threads) : threads_(threads > 0 ? threads : 1) { start(); }

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::start() {
    process_ = process_id();
    arrived_ = 0;
    taken_ = 0;
    try {
        for (std::size_t index = 1; index < threads_; ++index) {
            others_.emplace_back([this, index, seen = turn_.load()] { loop(index, seen); });
        }
    } catch (...) {  // the system gives no more threads: those that wait must not outlive the pool
        stop();
        throw;
    }
}

void ThreadPool::stop() {
    if (process_ != process_id()) {  // these threads are another process's; nothing here runs or can be joined
        for (std::thread& other : others_) other.detach();
    } else {
        stopping_ = true;
        turn_.fetch_add(1, std::memory_order_release);
        turn_.notify_all();
        for (std::thread& other : others_) other.join();
        stopping_ = false;
    }
    others_.clear();
}

void ThreadPool::run(const std::function<void(const Worker&)>& work) {
    if (process_ != process_id()) {
        stop();
        start();
    }
    work_ = &work;
    if (threads_ > 1) {
        turn_.fetch_add(1, std::memory_order_release);
        turn_.notify_all();
    }
    work(Worker{this, 0, threads_});
    barrier();
}

void ThreadPool::loop(std::size_t index, unsigned seen) {
    for (;;) {
        wait_for_change(turn_, seen, kIdleSpins);
        seen = turn_.load(std::memory_order_acquire);
        if (stopping_) return;
        (*work_)(Worker{this, index, threads_});
        barrier();
    }
}

void ThreadPool::barrier() {
    if (threads_ == 1) {
        taken_.store(0, std::memory_order_relaxed);
        return;
    }
    const unsigned passed = passed_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        taken_.store(0, std::memory_order_relaxed);
        passed_.fetch_add(1, std::memory_order_release);
        passed_.notify_all();
    } else {
        wait_for_change(passed_, passed, kBarrierSpins);
    }
}

}  // namespace rwkvquant
