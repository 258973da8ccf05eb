#include "shares.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rwkvquant {
namespace {

constexpr double kWeight = 1.0 / 8;      // of the last token in a mean: after 10 tokens three quarters of a change are seen
constexpr double kMostChange = 2;        // of a speed, by one token: a single pause of the thread says little
constexpr double kTolerance = 0.04;      // shares stay while no speed differs by more: rows are cut in units of 32 or 64 anyway
constexpr double kLeast = 1.0 / 16;      // of an equal share: a thread without work could not be measured
constexpr double kMuchWaiting = 0.25;    // on a busy host without other processes, threads wait 12 % of the time
constexpr double kBetter = 0.95;         // another team must need less than this share of the time
constexpr double kClearlyWorse = 1.25;   // one token of a larger team that takes this much longer ends its trial
constexpr int kFewer = 8, kMore = 4;     // tokens of a trial with fewer or more threads: time slices are about as long as a token
constexpr double kTrialCost = 0.03;      // of the time: what trials that fail may cost
constexpr double kShortestPause = 16, kLongestPause = 1024;  // tokens between trials

}  // namespace

Shares::Shares(std::size_t threads) : speed_(threads, 1.0), shares_(threads), pause_(kShortestPause) { fix({}); }

void Shares::learn(std::span<const std::uint64_t> busy, std::uint64_t time) {
    if (fixed_ || speed_.size() < 2 || busy.size() != team_.threads.size() || time == 0) return;
    follow(busy);
    const std::uint64_t least = *std::min_element(busy.begin(), busy.end());
    waiting_ += kWeight * (1 - static_cast<double>(least) / static_cast<double>(time) - waiting_);
    judge(static_cast<double>(time));
}

// Speed is share by time. Threads that need equal times have the right shares, also where a part of their time is the same for any share.
void Shares::follow(std::span<const std::uint64_t> busy) {
    const std::vector<std::size_t>& threads = team_.threads;
    std::vector<double> now(threads.size());
    double sum_now = 0, sum = 0;
    for (std::size_t i = 0; i < threads.size(); ++i) {
        now[i] = shares_[threads[i]] / static_cast<double>(std::max<std::uint64_t>(busy[i], 1));
        sum_now += now[i], sum += speed_[threads[i]];
    }
    const double least = kLeast * sum / static_cast<double>(threads.size());
    double sum_after = 0;
    for (std::size_t i = 0; i < threads.size(); ++i) {
        double& speed = speed_[threads[i]];
        const double measured = std::clamp(now[i] * sum / sum_now, speed / kMostChange, speed * kMostChange);
        speed = std::max(speed + kWeight * (measured - speed), least);
        sum_after += speed;
    }
    const bool differ = std::any_of(threads.begin(), threads.end(), [&](std::size_t thread) {
        return std::abs(speed_[thread] / sum_after / shares_[thread] - 1) > kTolerance;
    });
    if (differ) use(std::vector(threads));
}

// Ends a trial, or begins one.
void Shares::judge(double time) {
    ++tokens_;
    if (before_.empty()) {
        usual_ = usual_ == 0 ? time : usual_ + kWeight * (time - usual_);
        waited_ = waiting_ > kMuchWaiting ? waited_ + 1 : 0;
        if (tokens_ >= pause_) begin_trial();
        return;
    }
    trial_time_ += time;
    const bool more = team_.threads.size() > before_.size();
    const int length = more ? kMore : kFewer;
    const bool worse = trial_time_ > kBetter * usual_ * length || (more && time > kClearlyWorse * usual_);
    if (!worse && tokens_ < length) return;
    if (worse) {
        use(before_);
        pause_ = std::clamp((trial_time_ / usual_ - tokens_) / kTrialCost, kShortestPause, kLongestPause);
    } else {
        usual_ = trial_time_ / length;
        pause_ = kShortestPause;
    }
    before_.clear();
    waiting_ = trial_time_ = 0, tokens_ = waited_ = 0;
}

// Without the slowest thread where threads wait much, otherwise with the fastest of those that are left out. The caller's thread, 0, is
// always in the team.
void Shares::begin_trial() {
    std::vector<std::size_t> threads = team_.threads;
    const auto slower = [&](std::size_t a, std::size_t b) { return speed_[a] < speed_[b]; };
    if (waited_ >= kFewer && threads.size() > 1) {
        threads.erase(std::min_element(threads.begin() + 1, threads.end(), slower));
    } else if (threads.size() < speed_.size()) {
        std::vector<std::size_t> others;
        for (std::size_t thread = 1; thread < speed_.size(); ++thread) {
            if (std::find(threads.begin(), threads.end(), thread) == threads.end()) others.push_back(thread);
        }
        const std::size_t next = *std::max_element(others.begin(), others.end(), slower);
        double mean = 0;
        for (const std::size_t thread : threads) mean += speed_[thread] / static_cast<double>(threads.size());
        speed_[next] = std::sqrt(speed_[next] * mean);  // its last speed was that of a disturbed thread
        threads.insert(std::upper_bound(threads.begin(), threads.end(), next), next);
    } else {
        return;
    }
    before_ = team_.threads;
    trial_time_ = 0, tokens_ = 0;
    use(std::move(threads));
}

bool Shares::fix(std::span<const double> shares) {
    const auto valid = [](double share) { return std::isfinite(share) && share > 0; };
    if (!shares.empty() && (shares.size() != speed_.size() || !std::all_of(shares.begin(), shares.end(), valid))) return false;
    fixed_ = !shares.empty();
    for (std::size_t t = 0; t < speed_.size(); ++t) speed_[t] = fixed_ ? shares[t] / *std::max_element(shares.begin(), shares.end()) : 1;
    waiting_ = usual_ = trial_time_ = 0, tokens_ = waited_ = 0, pause_ = kShortestPause;
    before_.clear();
    std::vector<std::size_t> all(speed_.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    use(std::move(all));
    return true;
}

// The team of these threads, in ascending order, with shares by their speeds.
void Shares::use(std::vector<std::size_t> threads) {
    double sum = 0;
    for (const std::size_t thread : threads) sum += speed_[thread];
    const double even = 1 / static_cast<double>(threads.size());
    const auto is_even = [&](std::size_t thread) { return std::abs(speed_[thread] / sum / even - 1) <= kTolerance; };
    const bool equal = std::all_of(threads.begin(), threads.end(), is_even);
    std::fill(shares_.begin(), shares_.end(), 0.0);
    team_.cuts.clear();
    double before = 0;
    for (const std::size_t thread : threads) {
        shares_[thread] = equal ? even : speed_[thread] / sum;
        if (!equal) team_.cuts.push_back(static_cast<std::uint32_t>(std::lround(before * Worker::kWhole)));
        before += shares_[thread];
    }
    if (!equal) team_.cuts.push_back(Worker::kWhole);
    team_.threads = std::move(threads);
}

}  // namespace rwkvquant
