#include "prefetch.h"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

#if defined(RWKVQUANT_X86)
#include <cpuid.h>
#endif

namespace rwkvquant {
namespace {

constexpr std::size_t kLarge = 64 << 20;      // bytes a token, of a model whose weights come from memory
constexpr std::size_t kEnough = 4 << 20;      // bytes a token, of a kind whose time says something
constexpr Ahead kWays[] = {{0},        {1024},         {2048},       {4096},       {8192},
                           {16384},    {4096, 1024},   {8192, 1024}, {8192, 3072}, {16384, 2048}};
constexpr std::size_t kFirst = 2, kRounds = 7;  // the first tokens bring pages into memory; then so many in each way, in turn
constexpr double kBetter = 0.97;              // of the time of the table's way, or that stays

// "AuthenticAMD", "GenuineIntel"; empty on other architectures.
std::string vendor() {
#if defined(RWKVQUANT_X86)
    unsigned most = 0, name[3] = {};
    if (__get_cpuid(0, &most, &name[0], &name[2], &name[1]) == 0) return {};
    return {reinterpret_cast<const char*>(name), sizeof name};
#else
    return {};
#endif
}

// What earlier models of this process have measured, by body and kind.
struct Measured {
    std::mutex busy;
    std::map<std::pair<std::string, std::string>, Ahead> ahead;
};
Measured& measured() {
    static Measured all;
    return all;
}

}  // namespace

// Measured on an AMD EPYC (family 26 model 2) and on an Intel Xeon of the AMX generation. Others get the former's.
Ahead usual_ahead(const std::string& kind) {
    static const bool intel = vendor() == "GenuineIntel";
    if (!intel) return {8192};
    return {kind.starts_with("pairs") ? std::size_t{2048} : std::size_t{1024}};
}

Prefetch::Prefetch(std::string isa, std::vector<std::string> kinds, std::vector<std::size_t> bytes)
    : isa_(std::move(isa)), kinds_(std::move(kinds)), bytes_(std::move(bytes)) {
    std::size_t total = 0;
    for (std::size_t& of_kind : bytes_) {
        total += of_kind;
        if (of_kind < kEnough) of_kind = 0;
    }
    for (const std::string& kind : kinds_) ahead_.push_back(usual_ahead(kind));
    if (total < kLarge) return;

    const std::lock_guard<std::mutex> lock(measured().busy);
    for (std::size_t k = 0; k < kinds_.size(); ++k) {
        const auto known = measured().ahead.find({isa_, kinds_[k]});
        if (known == measured().ahead.end()) {
            measuring_ = measuring_ || bytes_[k] > 0;
        } else {
            ahead_[k] = known->second;
            source_ = "measured";
            bytes_[k] = 0;
        }
    }
    if (measuring_) source_ = "measuring";
    best_.assign(std::size(kWays) + 1, std::vector(kinds_.size(), std::numeric_limits<std::uint64_t>::max()));
}

void Prefetch::learn(std::span<const std::uint64_t> times) {
    if (!measuring_) return;
    const std::size_t count = best_.size();
    if (tokens_ >= kFirst) {
        std::vector<std::uint64_t>& best = best_[(tokens_ - kFirst) % count];
        for (std::size_t k = 0; k < kinds_.size(); ++k) best[k] = std::min(best[k], times[k]);
    }
    if (++tokens_ == kFirst + kRounds * count) return choose();
    const std::size_t next = tokens_ < kFirst ? 0 : (tokens_ - kFirst) % count;
    for (std::size_t k = 0; k < kinds_.size(); ++k) {
        if (bytes_[k] > 0) ahead_[k] = next == 0 ? usual_ahead(kinds_[k]) : kWays[next - 1];
    }
}

void Prefetch::choose() {
    measuring_ = false, source_ = "measured";
    const std::lock_guard<std::mutex> lock(measured().busy);
    for (std::size_t k = 0; k < kinds_.size(); ++k) {
        if (bytes_[k] == 0) continue;
        std::size_t least = 0;
        for (std::size_t w = 1; w < best_.size(); ++w) {
            if (best_[w][k] < best_[least][k]) least = w;
        }
        const bool better = static_cast<double>(best_[least][k]) < kBetter * static_cast<double>(best_[0][k]);
        ahead_[k] = better ? kWays[least - 1] : usual_ahead(kinds_[k]);
        measured().ahead[{isa_, kinds_[k]}] = ahead_[k];
    }
}

void Prefetch::fix(std::optional<Ahead> ahead) {
    measuring_ = false, source_ = ahead ? "fixed" : "table";
    for (std::size_t k = 0; k < kinds_.size(); ++k) ahead_[k] = ahead ? *ahead : usual_ahead(kinds_[k]);
}

}  // namespace rwkvquant
