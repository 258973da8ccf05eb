// The products of a step, and how their rows are divided among threads.
#include <algorithm>

#include "bodies.h"
#include "engine.h"

namespace rwkvquant {
namespace {

constexpr std::size_t kMostProducts = 8;  // between two barriers
constexpr std::size_t kRowUnit = 32;  // two row-blocks: products with many vectors take two at a time

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// How a matrix is divided among threads. For few tokens by index only: a new piece waits for its first memory, and all cores share the
// memory. For many tokens half of it is handed out, in pieces that are large enough for what a call costs.
struct Division {
    std::size_t pieces, single;

    Division(const Worker& worker, std::size_t bytes, std::size_t tokens) : pieces(Worker::kWhole), single(0) {
        constexpr std::size_t kPieceBytes = 32 << 10, kMostPieces = 16;
        if (tokens < kManyTokens) return;
        pieces = worker.threads * std::clamp<std::size_t>(bytes / kPieceBytes / worker.threads, 1, kMostPieces);
        single = pieces / 2;
    }
};

bool equal(const InputTransform& a, const InputTransform& b, std::size_t cols) {
    if ((a.signs == nullptr) != (b.signs == nullptr) || (a.divisors == nullptr) != (b.divisors == nullptr)) return false;
    const bool same_signs = a.signs == nullptr || std::equal(a.signs, a.signs + ceil_divide(cols, 8), b.signs);
    return same_signs && (a.divisors == nullptr || std::equal(a.divisors, a.divisors + cols, b.divisors));
}

void transformed(const InputTransform& T, const float* x, std::size_t cols, float* y) {
    if (T.divisors != nullptr) {
        for (std::size_t c = 0; c < cols; ++c) y[c] = x[c] / T.divisors[c];
        x = y;
    }
    if (T.signs != nullptr) operations().hadamard(x, T.signs, cols, y);
}

}  // namespace

void Engine::take_input(const Matrix& W, Vectors& x) {
    x.read_by(W);
    if (!W.transform) return;
    const auto same = [&](const Transformed& each) { return each.x == &x && equal(W.transform, each.T, W.cols); };
    const auto found = std::find_if(transformed_.begin(), transformed_.end(), same);
    own_input_[&W] = static_cast<std::size_t>(found - transformed_.begin());
    if (found == transformed_.end()) transformed_.push_back({&x, W.transform, std::make_unique<Vectors>(W.cols)});
}

const Vectors& Engine::input_of(const Matrix& W, const Vectors& x) const {
    return !W.transform ? x : *transformed_[own_input_.at(&W)].y;
}

void Engine::transform(const Worker& worker, std::span<const Input> inputs, std::size_t count) const {
    const Transformed* each[kMostProducts];
    std::size_t different = 0;
    for (const Input& input : inputs) {
        if (!input.W->transform) continue;
        const Transformed* one = &transformed_[own_input_.at(input.W)];
        if (std::find(each, each + different, one) == each + different) each[different++] = one;
    }
    if (different == 0) return;
    const std::size_t pieces = different * count;
    worker.hand_out(pieces, count < kManyTokens ? 0 : pieces / 2, [&](Range part) {
        for (std::size_t piece = part.begin; piece < part.end; ++piece) {
            const Transformed& of = *each[piece / count];
            const std::size_t m = piece % count, cols = of.y->cols();
            transformed(of.T, of.x->row(m), cols, of.y->row(m));
            if (quantized_) of.y->quantize(m, {0, cols});
        }
    });
    worker.barrier();
}

void Engine::multiply(const Matrix& W, const Vectors& x, std::size_t count, float* out, std::size_t stride, Range rows) const {
    if (rows.begin >= rows.end) return;
    Activations view = input_of(W, x).view(count, quantized_);
    view.ahead = prefetch_.ahead(W.kind);
    const std::uint64_t started = timing_ ? ticks() : 0;
    operations().codecs[W.codec]->product(W, view, out, stride, rows.begin, rows.end);
    if (timing_) times_[W.kind].fetch_add(ticks() - started, std::memory_order_relaxed);
}

template <typename Body>
void Engine::hand_out_rows(const Worker& worker, const Matrix& W, std::size_t count, const Body& body) const {
    const Division division(worker, W.bytes, count);
    const std::size_t rows = W.rows, units = ceil_divide(rows, kRowUnit);
    worker.hand_out(division.pieces, division.single, [&](Range part) {
        const auto row = [&](std::size_t piece) { return std::min(rows, units * piece / division.pieces * kRowUnit); };
        if (row(part.begin) < row(part.end)) body(Range{row(part.begin), row(part.end)});
    });
}

void Engine::multiply_one(const Worker& worker, const Matrix& W, const Vectors& x, std::size_t count, float* out, std::size_t stride) const {
    const Input own[] = {{&W, &x}};
    transform(worker, own, count);
    hand_out_rows(worker, W, count, [&](Range rows) { multiply(W, x, count, out, stride, rows); });
}

void Engine::add_branch(const Worker& worker, const Matrix& W, const Vectors& y, const Vectors* gate, std::size_t count) {
    if (is_by_columns(W)) return add_by_columns(worker, W, y, gate, count);
    const Input own[] = {{&W, &y}};
    transform(worker, own, count);
    hand_out_rows(worker, W, count, [&](Range rows) {
        multiply(W, y, count, branch_.row(0), branch_.stride(), rows);
        for (std::size_t m = 0; m < count; ++m) {
            if (gate != nullptr) operations().multiply(branch_.row(m), gate->row(m), rows.begin, rows.end);
            operations().add(x_.row(m), branch_.row(m), rows.begin, rows.end);
        }
    });
}

// The products are put one after another into one line of work, measured in bytes or, for many tokens, in multiplications. The line is cut
// into equal lengths, each cut moved to the end of a unit of rows. A product whose output another product reads is cut at groups of 64, so
// that one thread can quantise each group.
void Engine::multiply_all(const Worker& worker, std::span<const Product> products, std::size_t count) const {
    const auto cost = [&](const Product& product) {
        return count < kManyTokens ? product.W->bytes : product.W->rows * product.W->cols;
    };
    std::size_t total = 0, bytes = 0;
    for (const Product& product : products) total += cost(product), bytes += product.W->bytes;

    Input inputs[kMostProducts];
    for (std::size_t i = 0; i < products.size(); ++i) inputs[i] = {products[i].W, products[i].x};
    transform(worker, std::span<const Input>(inputs, products.size()), count);
    const Division division(worker, bytes, count);
    worker.hand_out(division.pieces, division.single, [&](Range part) {
        std::size_t before = 0;
        for (const Product& product : products) {
            const std::size_t unit = product.feeds_product ? kColumnGroup : kRowUnit;
            const std::size_t rows = product.W->rows, units = ceil_divide(rows, unit), length = cost(product);
            const auto row = [&](std::size_t piece) {
                const std::size_t mark = total * piece / division.pieces;
                if (mark <= before) return std::size_t{0};
                return mark >= before + length ? rows : std::min(rows, (units * (mark - before) + length / 2) / length * unit);
            };
            multiply_part(product, count, {row(part.begin), row(part.end)});
            before += length;
        }
    });
}

void Engine::multiply_part(const Product& product, std::size_t count, Range rows) const {
    if (rows.begin >= rows.end) return;
    multiply(*product.W, *product.x, count, product.out->row(0), product.out->stride(), rows);
    for (std::size_t m = 0; m < count; ++m) {
        if (product.finish) operations().apply(*product.finish, product.out->row(m), rows.begin, rows.end);
        if (product.feeds_product && quantized_) product.out->quantize(m, rows);
    }
}

}  // namespace rwkvquant
