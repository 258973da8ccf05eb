// Which threads work on a step, and which share of the work each of them gets. Results never depend on this.
//
// Cores differ: there are performance and efficiency cores, and other processes use some cores too. Threads wait for one another at every
// barrier, so the slowest thread sets the pace. Two things help:
//
// - Shares follow the speed of each thread, measured over the last tokens.
// - A core that runs another process too is away for milliseconds at a time, longer than many barriers are apart. No share is small enough
//   for that. So if threads wait much, a few tokens are read without the slowest thread. If that is faster, the thread is left out, and
//   is tried again from time to time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "thread_pool.h"

namespace rwkvquant {

class Shares {
  public:
    explicit Shares(std::size_t threads);

    const Team& team() const { return team_; }
    std::span<const double> values() const { return shares_; }  // (threads,), their sum is 1; 0 for a thread that is left out

    // After a step of the team: how long each of its threads worked, without waiting, and how long the step took, in the same unit.
    void learn(std::span<const std::uint64_t> busy, std::uint64_t time);

    // From now on these shares, whose sum need not be 1; learn does nothing. With none, all threads have equal shares and learn goes on.
    // False, and nothing changes, if there is not one for each thread, or one is not a number above 0.
    bool fix(std::span<const double> shares);

  private:
    void follow(std::span<const std::uint64_t> busy);
    void judge(double time);
    void begin_trial();
    void use(std::vector<std::size_t> threads);

    bool fixed_ = false;
    Team team_;
    std::vector<double> speed_, shares_;  // (threads,); a thread that is left out keeps its last speed
    double waiting_ = 0;                  // the share of its time that the thread waits that waits most, over the last tokens
    double usual_ = 0;                    // the time of a token, over the last tokens outside of trials
    int waited_ = 0;                      // tokens since threads wait much
    int tokens_ = 0;                      // since the last trial, or in the present one
    double pause_;                        // tokens between two trials, at least
    double trial_time_ = 0;
    std::vector<std::size_t> before_;     // the threads of the team before the present trial; empty: there is no trial
};

}  // namespace rwkvquant
