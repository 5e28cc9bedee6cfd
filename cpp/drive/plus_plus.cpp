#include "plus_plus.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "float_mode.h"

namespace lw {
namespace {

// Sums are made of those of pieces, so that they do not depend on threads and a draw need not look at every point.
constexpr std::size_t kPiece = 256;

// A pass of fewer products is over before another thread has woken up.
constexpr std::size_t kAlone = std::size_t{1} << 22;

class Draw {
 public:
  Draw(const double* weights, const float* nearest, std::size_t n)
      : weights_(weights), nearest_(nearest), n_(n), sums_((n + kPiece - 1) / kPiece) {}

  // What point i counts with at a distance; before the first centroid all are equally far.
  double chance(std::size_t i, float distance) const {
    const double weight = weights_ == nullptr ? 1.0 : weights_[i];
    return distance < std::numeric_limits<float>::infinity() ? weight * static_cast<double>(distance) : weight;
  }

  void add_up() {
    for (std::size_t piece = 0; piece < sums_.size(); ++piece) {
      sums_[piece] = 0.0;
      for (std::size_t i = piece * kPiece; i < end(piece); ++i) sums_[piece] += chance(i, nearest_[i]);
    }
  }

  // Takes over sums that stand `stride` apart.
  void take(const double* sums, std::size_t stride) {
    for (std::size_t piece = 0; piece < sums_.size(); ++piece) sums_[piece] = sums[piece * stride];
  }

  double total() const {
    double sum = 0.0;
    for (const double part : sums_) sum += part;
    return sum;
  }

  // The first point up to which, itself included, there is more than `level` in all. Rounding may leave none: then the
  // last that counts.
  std::size_t at(double level) const {
    double before = 0.0, sum = 0.0;
    std::size_t piece = 0;
    for (std::size_t next = 0; next < sums_.size() && !(sum > level); ++next) {
      if (!(sums_[next] > 0.0)) continue;
      piece = next;
      before = sum;
      sum += sums_[next];
    }
    sum = before;
    std::size_t found = 0;
    for (std::size_t i = piece * kPiece; i < end(piece); ++i) {
      const double own = chance(i, nearest_[i]);
      if (!(own > 0.0)) continue;
      found = i;
      sum += own;
      if (sum > level) break;
    }
    return found;
  }

  std::size_t n_pieces() const { return sums_.size(); }
  std::size_t end(std::size_t piece) const { return std::min(n_, (piece + 1) * kPiece); }

 private:
  const double* weights_;
  const float* nearest_;
  std::size_t n_;
  std::vector<double> sums_;
};

}  // namespace

bool plus_plus(const Kernels& kernels, const float* points, std::size_t n, std::size_t dim, const double* weights,
               const double* uniforms, std::size_t n_trials, std::size_t begin, std::size_t end, std::int64_t* chosen,
               float* nearest, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  if (n * dim * n_trials < kAlone) n_threads = 1;
  Draw draw(weights, nearest, n);
  draw.add_up();
  std::vector<bool> taken(n);
  for (std::size_t j = 0; j < begin; ++j) taken[static_cast<std::size_t>(chosen[j])] = true;
  std::size_t first_left = 0;
  std::vector<std::int64_t> trials(n_trials);
  std::vector<float> rows(n_trials * dim);     // of the trials, side by side
  std::vector<float> distances(n * n_trials);  // of point i to trial t: [i * n_trials + t]
  std::vector<double> sums(draw.n_pieces() * n_trials);
  for (std::size_t j = begin; j < end; ++j) {
    const double total = draw.total();
    if (!(total > 0.0)) {
      while (taken[first_left]) ++first_left;
      taken[first_left] = true;
      chosen[j] = static_cast<std::int64_t>(first_left);
      continue;
    }
    const std::size_t m = j == 0 ? 1 : n_trials;
    const double* const drawn = uniforms + (j == 0 ? 0 : 1 + (j - 1) * n_trials);
    for (std::size_t t = 0; t < m; ++t) {
      const std::size_t i = draw.at(drawn[t] * total);
      trials[t] = static_cast<std::int64_t>(i);
      std::copy_n(points + i * dim, dim, rows.data() + t * dim);
    }
    const bool finished = parallel_for(draw.n_pieces(), n_threads, interrupt, [&](std::size_t piece, std::size_t) {
      double* const sum = sums.data() + piece * n_trials;
      std::fill_n(sum, m, 0.0);
      for (std::size_t i = piece * kPiece; i < draw.end(piece); ++i) {
        float* const own = distances.data() + i * n_trials;
        score_rows(kernels, Metric::kL2, points + i * dim, rows.data(), nullptr, m, dim, own);
        for (std::size_t t = 0; t < m; ++t) sum[t] += draw.chance(i, std::min(own[t], nearest[i]));
      }
    });
    if (!finished) return false;
    std::size_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t t = 0; t < m; ++t) {
      double left = 0.0;
      for (std::size_t piece = 0; piece < draw.n_pieces(); ++piece) left += sums[piece * n_trials + t];
      if (left < least) {
        least = left;
        best = t;
      }
    }
    for (std::size_t i = 0; i < n; ++i) nearest[i] = std::min(nearest[i], distances[i * n_trials + best]);
    draw.take(sums.data() + best, n_trials);
    chosen[j] = trials[best];
    taken[static_cast<std::size_t>(trials[best])] = true;
  }
  return true;
}

}  // namespace lw
