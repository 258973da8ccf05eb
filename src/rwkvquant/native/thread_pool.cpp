#include "thread_pool.h"

#include <chrono>
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

std::uint64_t ticks() {
#if defined(RWKVQUANT_X86)
    return __rdtsc();
#else
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

ThreadPool::ThreadPool(std::size_t threads) : asked_(threads > 0 ? threads : 1) { start(); }

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::start() {
    process_ = process_id();
    own_ = std::make_unique<Thread[]>(asked_);
    all_.threads.reserve(asked_);
    others_.reserve(asked_ - 1);  // may throw; after it, only starting a thread may
    while (others_.size() + 1 < asked_) {
        try {
            others_.emplace_back([this, index = others_.size() + 1] { loop(index); });
        } catch (const std::exception&) {  // the system gives no more
            break;
        }
    }
    threads_ = others_.size() + 1;
    all_.threads.clear();
    for (std::size_t index = 0; index < threads_; ++index) all_.threads.push_back(index);
}

void ThreadPool::stop() {
    if (process_ != process_id()) {  // after a fork: the threads are in the parent process, and cannot be joined here
        for (std::thread& other : others_) other.detach();
    } else {
        stopping_ = true;
        for (std::size_t index = 1; index < threads_; ++index) wake(index);
        for (std::thread& other : others_) other.join();
        stopping_ = false;
    }
    others_.clear();
    threads_ = 1;
}

void ThreadPool::wake(std::size_t index) {
    own_[index].call.fetch_add(1, std::memory_order_release);
    own_[index].call.notify_one();
}

std::vector<std::uint64_t> ThreadPool::busy() const {
    std::vector<std::uint64_t> busy;
    for (const std::size_t index : team_->threads) busy.push_back(own_[index].busy);
    return busy;
}

void ThreadPool::run(const std::function<void(const Worker&)>& work, const Team* team) {
    if (process_ != process_id()) {
        stop();
        start();
    }
    const std::uint64_t started = ticks();
    team_ = team != nullptr && team->threads.back() < threads_ ? team : &all_;
    const std::size_t size = team_->threads.size();
    work_ = &work;
    thrown_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    arrived_.store(0, std::memory_order_relaxed);
    taken_.store(0, std::memory_order_relaxed);
    working_.store(static_cast<unsigned>(size - 1), std::memory_order_relaxed);
    for (std::size_t place = 0; place < size; ++place) own_[team_->threads[place]].place = place;
    for (std::size_t place = 1; place < size; ++place) wake(team_->threads[place]);
    take_part(0);
    for (unsigned left; (left = working_.load(std::memory_order_acquire)) != 0;) wait_for_change(working_, left, kBarrierSpins);
    time_ = ticks() - started;
    if (thrown_ != nullptr) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void ThreadPool::loop(std::size_t index) {
    for (unsigned seen = 0;; ++seen) {
        wait_for_change(own_[index].call, seen, kIdleSpins);
        if (stopping_) return;
        take_part(index);
        if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_all();
    }
}

void ThreadPool::take_part(std::size_t index) {
    Thread& own = own_[index];
    own.started = ticks(), own.busy = 0;
    try {
        (*work_)(Worker{this, own.place, team_->threads.size(), team_->cuts.empty() ? nullptr : team_->cuts.data()});
        own.busy += ticks() - own.started;
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

void ThreadPool::barrier(std::size_t place) {
    const std::size_t size = team_->threads.size();
    if (size == 1) {
        taken_.store(0, std::memory_order_relaxed);
        return;
    }
    Thread& own = own_[team_->threads[place]];
    own.busy += ticks() - own.started;
    const unsigned passed = passed_.load(std::memory_order_acquire);
    if (failed_.load(std::memory_order_acquire)) throw Abandoned{};
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
        arrived_.store(0, std::memory_order_relaxed);
        taken_.store(0, std::memory_order_relaxed);
        passed_.fetch_add(1, std::memory_order_release);
        passed_.notify_all();
    } else {
        wait_for_change(passed_, passed, kBarrierSpins);
        if (failed_.load(std::memory_order_acquire)) throw Abandoned{};
    }
    own.started = ticks();
}

}  // namespace rwkvquant
