#include "rotate.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <vector>

namespace lw {
namespace {

constexpr std::size_t kRowsPerPiece = 256;

// Calls f(begin, log2_length) for each power of two in dim, largest first.
template <class F>
void for_each_transform(std::size_t dim, F&& f) {
  for (std::size_t begin = 0; begin < dim;) {
    const unsigned log2_length = static_cast<unsigned>(std::bit_width(dim - begin)) - 1;
    f(begin, log2_length);
    begin += std::size_t{1} << log2_length;
  }
}

void transform(const Kernels& kernels, std::size_t dim, const float* weights, const float* x, float* y) {
  for_each_transform(dim, [&](std::size_t begin, unsigned log2_length) {
    kernels.fwht(x + begin, y + begin, 1, 0, log2_length, weights + begin);
  });
}

// to[i] = from[(i * stride) % n] chunk by chunk, or the inverse of it.
void permute(const Rotation& r, const float* from, float* to, bool inverse) {
  const std::size_t n = r.dim / r.chunk;
  std::size_t source = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t a = inverse ? source : i;
    const std::size_t b = inverse ? i : source;
    std::copy_n(from + b * r.chunk, r.chunk, to + a * r.chunk);
    source += r.stride;
    if (source >= n) source -= n;
  }
}

bool needs_permutation(const Rotation& r) { return !std::has_single_bit(r.dim); }

}  // namespace

double Rotation::error_bound() const {
  constexpr double kUnit = 0x1p-24;
  const double stages = static_cast<double>(std::bit_width(dim) - 1) + 2;
  return static_cast<double>(kRounds) * stages * kUnit * 1.01;
}

void rotate(const Kernels& kernels, const Rotation& rotation, const float* center, const float* x, float* y,
            float* scratch) {
  const std::size_t dim = rotation.dim;
  if (center != nullptr) {
    for (std::size_t d = 0; d < dim; ++d) y[d] = x[d] - center[d];
    x = y;
  }
  for (std::size_t round = 0; round < Rotation::kRounds; ++round) {
    if (round > 0 && needs_permutation(rotation)) {
      std::copy_n(y, dim, scratch);
      permute(rotation, scratch, y, false);
    }
    transform(kernels, dim, rotation.weights + round * dim, round == 0 ? x : y, y);
  }
}

namespace {

// Calls one(from, to, scratch) for every vector, in parallel.
template <class F>
RotateOutcome for_each_vector(const Kernels& kernels, std::size_t dim, const float* from, std::size_t n, float* to,
                              std::size_t n_threads, const Interrupt& interrupt, F&& one) {
  std::atomic<bool> finite{true};
  // A sum of dim terms; rounds keep the length, and so no later one is larger than dim times the largest coordinate.
  const float growth = 2 * static_cast<float>(dim);
  const std::size_t n_pieces = (n + kRowsPerPiece - 1) / kRowsPerPiece;
  const bool finished = parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    std::vector<float> scratch(dim);
    const std::size_t end = std::min(n, (piece + 1) * kRowsPerPiece);
    for (std::size_t i = piece * kRowsPerPiece; i < end && finite.load(std::memory_order_relaxed); ++i) {
      if (!kernels.all_finite(from + i * dim, dim, growth)) {
        finite = false;
        break;
      }
      one(from + i * dim, to + i * dim, scratch.data());
    }
  });
  // What a signal handler has raised goes first.
  if (!finished) return RotateOutcome::kInterrupted;
  return finite ? RotateOutcome::kRotated : RotateOutcome::kNotFinite;
}

}  // namespace

RotateOutcome rotate_all(const Kernels& kernels, const Rotation& rotation, const float* x, std::size_t n, float* y,
                         std::size_t n_threads, const Interrupt& interrupt) {
  return for_each_vector(
      kernels, rotation.dim, x, n, y, n_threads, interrupt,
      [&](const float* from, float* to, float* scratch) { rotate(kernels, rotation, nullptr, from, to, scratch); });
}

RotateOutcome rotate_back_all(const Kernels& kernels, const Rotation& rotation, const float* y, std::size_t n, float* x,
                              std::size_t n_threads, const Interrupt& interrupt) {
  const std::size_t dim = rotation.dim;
  // A transform is its own inverse, and the weights of a round are applied after it instead of before.
  const std::vector<float> ones(dim, 1.0f);
  return for_each_vector(kernels, dim, y, n, x, n_threads, interrupt,
                         [&](const float* from, float* to, float* scratch) {
                           for (std::size_t round = Rotation::kRounds; round-- > 0;) {
                             const float* const weights = rotation.weights + round * dim;
                             transform(kernels, dim, ones.data(), from, to);
                             from = to;
                             for (std::size_t d = 0; d < dim; ++d) to[d] *= weights[d];
                             if (round > 0 && needs_permutation(rotation)) {
                               std::copy_n(to, dim, scratch);
                               permute(rotation, scratch, to, true);
                             }
                           }
                         });
}

}  // namespace lw
