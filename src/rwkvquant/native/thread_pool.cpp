#include "thread_pool.h"

#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(RWKVQUANT_X86)
#include <immintrin.h>
#endif

namespace rwkvquant {
namespace {

// About 50 microseconds between calls and 100 at a barrier: much longer than threads differ, much shorter than a time slice.
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

// Thrown at a barrier to end the work of a thread that would wait forever.
struct Abandoned {};

}  // namespace

ThreadPool::ThreadPool(std::size_t threads) : asked_(threads > 0 ? threads : 1) { start(); }

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::start() {
    process_ = process_id();
    others_.reserve(asked_ - 1);  // may throw; after it, only starting a thread may
    while (others_.size() + 1 < asked_) {
        try {
            others_.emplace_back([this, index = others_.size() + 1, seen = calls_.load()] { loop(index, seen); });
        } catch (const std::exception&) {  // the system gives no more
            break;
        }
    }
    threads_ = others_.size() + 1;
}

void ThreadPool::stop() {
    if (process_ != process_id()) {  // after a fork: the threads are in the parent process, and cannot be joined here
        for (std::thread& other : others_) other.detach();
    } else {
        stopping_ = true;
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();
        for (std::thread& other : others_) other.join();
        stopping_ = false;
    }
    others_.clear();
    threads_ = 1;
}

void ThreadPool::run(const std::function<void(const Worker&)>& work) {
    if (process_ != process_id()) {
        stop();
        start();
    }
    work_ = &work;
    thrown_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    arrived_.store(0, std::memory_order_relaxed);
    taken_.store(0, std::memory_order_relaxed);
    working_.store(static_cast<unsigned>(others_.size()), std::memory_order_relaxed);
    if (!others_.empty()) {
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();
    }
    take_part(0);
    for (unsigned left; (left = working_.load(std::memory_order_acquire)) != 0;) wait_for_change(working_, left, kBarrierSpins);
    if (thrown_ != nullptr) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void ThreadPool::loop(std::size_t index, unsigned seen) {
    for (;;) {
        wait_for_change(calls_, seen, kIdleSpins);
        seen = calls_.load(std::memory_order_acquire);
        if (stopping_) return;
        take_part(index);
        if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_all();
    }
}

void ThreadPool::take_part(std::size_t index) {
    try {
        (*work_)(Worker{this, index, threads_});
    } catch (const Abandoned&) {  // another thread has thrown
    } catch (...) {
        {
            const std::lock_guard<std::mutex> lock(throwing_);
            if (thrown_ == nullptr) thrown_ = std::current_exception();
        }
        failed_.store(true, std::memory_order_release);
        passed_.fetch_add(1, std::memory_order_release);  // wakes the threads that wait at a barrier
        passed_.notify_all();
    }
}

void ThreadPool::barrier() {
    if (threads_ == 1) {
        taken_.store(0, std::memory_order_relaxed);
        return;
    }
    const unsigned passed = passed_.load(std::memory_order_acquire);
    if (failed_.load(std::memory_order_acquire)) throw Abandoned{};
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        taken_.store(0, std::memory_order_relaxed);
        passed_.fetch_add(1, std::memory_order_release);
        passed_.notify_all();
    } else {
        wait_for_change(passed_, passed, kBarrierSpins);
        if (failed_.load(std::memory_order_acquire)) throw Abandoned{};
    }
}

}  // namespace rwkvquant
