// Dot products of bytes in the first-level cache, as fast as one core can: the limit that products with many vectors are compared with.
// It is their innermost loop without unpacking, scales and sums in float.
//
// a (2, 16, 16, 4), below 128: two row-blocks, steps, rows, columns. q (8, 64): vectors. Returns, modulo 2^32, `rounds` times the sum
// of all products of row and vector, 2 * 16 * 8 * 64 = 16,384 multiplications a round.
#include "operations.h"
#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kVectorsAll = 8, kBlocksAll = 2, kBlockBytes = kGroupSteps * kStepBytes;
constexpr std::size_t kFit = 1024;  // rounds whose sums fit 32 bits: 1024 * 64 * 127 * 128 is below 2^31

// The sums of kBlocks row-blocks and kVectors vectors, added up.
std::uint32_t dot_tile(const std::uint8_t* rows, const std::int8_t* x, std::size_t rounds) {
    Ints sums[kBlocks * kVectors];
    for (Ints& sum : sums) sum = splat(0);
    for (std::size_t round = 0; round < rounds; ++round) {
        __asm__ volatile("" ::: "memory");  // so that the compiler reads the bytes again in every round
        for (std::size_t step = 0; step < kGroupSteps; ++step) {
            Bytes bytes[kBlocks];
            unroll<kBlocks>([&](auto b) RWKVQUANT_ALWAYS { bytes[b.v] = bytes_from(rows + b.v * kBlockBytes + step * kStepBytes); });
            unroll<kVectors>([&](auto v) RWKVQUANT_ALWAYS {
                const Four four = four_from(x + v.v * kActivationGroup + 4 * step);
                unroll<kBlocks>([&](auto b) RWKVQUANT_ALWAYS {
                    Ints& sum = sums[b.v * kVectors + v.v];
                    sum = dot<7>(sum, bytes[b.v], four);
                });
            });
        }
    }
    std::uint32_t lanes[kBlocks * kVectors][kTileRows], total = 0;
    static_assert(sizeof lanes == sizeof sums);
    std::memcpy(lanes, sums, sizeof lanes);
    for (const auto& sum : lanes) {
        for (const std::uint32_t lane : sum) total += lane;
    }
    return total;
}

}  // namespace

std::uint32_t dot_bytes(const std::uint8_t* a, const std::int8_t* q, std::size_t rounds) {
    std::uint32_t total = 0;
    for (; rounds > 0; rounds -= rounds < kFit ? rounds : kFit) {
        for (std::size_t block = 0; block < kBlocksAll; block += kBlocks) {
            for (std::size_t vector = 0; vector < kVectorsAll; vector += kVectors) {
                total += dot_tile(a + block * kBlockBytes, q + vector * kActivationGroup, rounds < kFit ? rounds : kFit);
            }
        }
    }
    return total;
}

}  // namespace rwkvquant::RWKVQUANT_BODY
