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
constexpr std::size_t kEnough = 4 << 20;      // bytes a token, of a codec whose time says something
constexpr std::size_t kDistances[] = {0, 1024, 2048, 4096, 8192, 16384};
constexpr std::size_t kFirst = 2, kRounds = 5;  // the first tokens bring pages into memory; then so many with each distance, in turn
constexpr double kBetter = 0.97;              // of the time of the table's distance, or that stays

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

// What earlier models of this process have measured, by body and codec.
struct Measured {
    std::mutex busy;
    std::map<std::pair<std::string, std::string>, std::size_t> ahead;
};
Measured& measured() {
    static Measured all;
    return all;
}

}  // namespace

// Measured on an AMD EPYC (family 26 model 2) and on an Intel Xeon of the AMX generation. Others get the former's.
std::size_t usual_ahead(const std::string& codec) {
    static const bool intel = vendor() == "GenuineIntel";
    if (!intel) return 8192;
    return codec == "pairs" ? 2048 : 1024;
}

Prefetch::Prefetch(std::string isa, std::vector<std::string> codecs, std::vector<std::size_t> bytes)
    : isa_(std::move(isa)), codecs_(std::move(codecs)), bytes_(std::move(bytes)) {
    std::size_t total = 0;
    for (std::size_t& of_codec : bytes_) {
        total += of_codec;
        if (of_codec < kEnough) of_codec = 0;
    }
    for (const std::string& codec : codecs_) ahead_.push_back(usual_ahead(codec));
    if (total < kLarge) return;

    const std::lock_guard<std::mutex> lock(measured().busy);
    for (std::size_t c = 0; c < codecs_.size(); ++c) {
        const auto known = measured().ahead.find({isa_, codecs_[c]});
        if (known == measured().ahead.end()) {
            measuring_ = measuring_ || bytes_[c] > 0;
        } else {
            ahead_[c] = known->second;
            source_ = "measured";
            bytes_[c] = 0;
        }
    }
    if (measuring_) source_ = "measuring";
    best_.assign(std::size(kDistances) + 1, std::vector(codecs_.size(), std::numeric_limits<std::uint64_t>::max()));
}

void Prefetch::learn(std::span<const std::uint64_t> times) {
    if (!measuring_) return;
    const std::size_t count = best_.size();
    if (tokens_ >= kFirst) {
        std::vector<std::uint64_t>& best = best_[(tokens_ - kFirst) % count];
        for (std::size_t c = 0; c < codecs_.size(); ++c) best[c] = std::min(best[c], times[c]);
    }
    if (++tokens_ == kFirst + kRounds * count) return choose();
    const std::size_t next = tokens_ < kFirst ? 0 : (tokens_ - kFirst) % count;
    for (std::size_t c = 0; c < codecs_.size(); ++c) {
        if (bytes_[c] > 0) ahead_[c] = next == 0 ? usual_ahead(codecs_[c]) : kDistances[next - 1];
    }
}

void Prefetch::choose() {
    measuring_ = false, source_ = "measured";
    const std::lock_guard<std::mutex> lock(measured().busy);
    for (std::size_t c = 0; c < codecs_.size(); ++c) {
        if (bytes_[c] == 0) continue;
        std::size_t least = 0;
        for (std::size_t d = 1; d < best_.size(); ++d) {
            if (best_[d][c] < best_[least][c]) least = d;
        }
        const bool better = static_cast<double>(best_[least][c]) < kBetter * static_cast<double>(best_[0][c]);
        ahead_[c] = better ? kDistances[least - 1] : usual_ahead(codecs_[c]);
        measured().ahead[{isa_, codecs_[c]}] = ahead_[c];
    }
}

void Prefetch::fix(std::optional<std::size_t> ahead) {
    measuring_ = false, source_ = ahead ? "fixed" : "table";
    for (std::size_t c = 0; c < codecs_.size(); ++c) ahead_[c] = ahead ? *ahead : usual_ahead(codecs_[c]);
}

}  // namespace rwkvquant
