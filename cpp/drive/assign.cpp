#include "assign.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../prefetch.h"
#include "aligned.h"
#include "float_mode.h"
#include "gaps.h"
#include "numbers.h"
#include "pack.h"
#include "topk.h"

namespace lw {
namespace {

// A tile of points stays in the second-level cache while all centroids pass it.
constexpr std::size_t kTileBytes = 512 * 1024;

// |x|^2 of the kLanes members of a packed group.
void packed_norms2(const float* group, std::size_t dim, double* norms2) {
  std::fill_n(norms2, kLanes, 0.0);
  for (std::size_t d = 0; d < dim; ++d) {
    for (std::size_t m = 0; m < kLanes; ++m) {
      const double x = static_cast<double>(group[d * kLanes + m]);
      norms2[m] += x * x;
    }
  }
}

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1.0f

// Sums of squares in sixteen chains round: by at most this factor, what is lost below the smallest float aside.
double sums_round(std::size_t dim) { return 1 + (static_cast<double>(dim) / 16 + 16) * kUnit; }

// The length of a row, rounded up, from such a sum.
double length_of(float norm2, std::size_t dim) {
  return std::sqrt(static_cast<double>(norm2)) * sums_round(dim) + std::sqrt(static_cast<double>(dim)) * 0x1p-74;
}

// Lengths of a row and of what its codes leave of it, or the longest of several, rounded up.
struct Lengths {
  double whole = 0.0, coarse = 0.0, residual = 0.0;

  Lengths() = default;
  Lengths(const RowCode& row, std::size_t dim) {
    whole = length_of(row.norm2, dim);
    const double scale = static_cast<double>(row.scale) * sums_round(dim);
    // Steps are found by operations that round, and the shift has rounded too; without codes all is left.
    coarse = scale == 0.0 ? whole : scale * std::sqrt(static_cast<double>(row.coarse2)) + 4 * kUnit * whole;
    residual = scale == 0.0 ? whole : scale * std::sqrt(static_cast<double>(row.residual2)) + 4 * kUnit * whole;
  }

  void include(const Lengths& other) {
    whole = std::max(whole, other.whole);
    coarse = std::max(coarse, other.coarse);
    residual = std::max(residual, other.residual);
  }
};

// How far apart two scores of one point must be for their canonical distances to be in the same order.
//
// A canonical distance, at most (|x| + |c|)^2 with the shifted lengths, is off by canonical_error of itself, and the
// difference of two is twice that of the scores.
class Doubt {
 public:
  Doubt(std::size_t dim, double longest_centroid)
      : chain_((static_cast<double>(dim) + 6) * kUnit * 1.02),
        row_(canonical_error(dim)),
        underflow_(static_cast<double>(dim) * 0x1p-146),
        c_(longest_centroid) {}

  // Of scores that are a chain of dim products and a rounded bias: off by at most (dim + 6) u (|x| |c| + |c|^2 / 2),
  // the rounding of the shift included.
  double of_floats(double x) const { return 2 * chain_ * (x * c_ + c_ * c_ / 2) + of_rows(x); }

  // Of scores made of codes: with h what the coarse codes of a vector say, l what the fine ones add and r what is left,
  // <x, c> differs from <h_x, h_c> + <h_x, l_c> + <l_x, h_c> by <l_x, l_c> + <r_x, c> + <x - r_x, r_c>, and
  // |l| <= |x - h| + |r|. The shift, the bias and four operations round.
  double of_codes(const Lengths& x, const Lengths& c) const {
    const double coded = (x.whole + x.coarse) * (c.whole + c.coarse);
    const double lost =
        (x.coarse + x.residual) * (c.coarse + c.residual) + x.residual * c.whole + (x.whole + x.residual) * c.residual;
    return 2 * (lost + 8 * kUnit * (coded + c_ * c_ / 2)) + of_rows(x.whole);
  }

 private:
  double chain_, row_, underflow_, c_;

  double of_rows(double x) const { return row_ * (x + c_) * (x + c_) + underflow_; }
};

// Points of one piece of the work, in the memory of one thread.
struct Scratch {
  Aligned<float> points, winners;
  Aligned<std::int8_t> codes;
  std::vector<float> norms2, scores, runner_ups, distances, weights, doubts, gathered;
  std::vector<RowCode> facts;
  std::vector<std::int32_t> labels;
  std::vector<std::uint32_t> panels;
  std::vector<std::int64_t> met;  // centroids
  std::size_t skip = 0;           // points for which codes are not tried
  std::size_t n_met = 0;          // panels, in guided pieces
};

// Points that meet some panels, or all if there is no list of them.
struct Points {
  const float* rows;
  std::size_t n;
  const std::uint32_t* panels = nullptr;
  std::size_t n_panels = 0;
};

// What all points meet.
class Centroids {
 public:
  // Centroids fill the panels in the given order, or their own if it is null.
  Centroids(const Kernels& kernels, Metric metric, const float* rows, std::size_t k, std::size_t dim,
            const std::int64_t* order)
      : kernels_(kernels),
        metric_(metric),
        rows_(rows),
        k_(k),
        dim_(dim),
        n_panels_((k + kLanes - 1) / kLanes),
        order_(order),
        shift_(dim, 0.0f),
        bias_(n_panels_ * kLanes, -std::numeric_limits<float>::infinity()) {
    if (metric == Metric::kL2) mean(rows, k, dim, shift_.data());
    packed_.resize(n_panels_ * kLanes * dim);
    pack(k, dim, [&](std::size_t i) { return centroid(i); }, shift_.data(), packed_.data());
    double norms2[kLanes];
    double longest2 = 0.0;
    for (std::size_t j = 0; j < k; ++j) {
      if (j % kLanes == 0) packed_norms2(packed_.data() + j * dim, dim, norms2);
      bias_[j] = metric == Metric::kL2 ? static_cast<float>(-0.5 * norms2[j % kLanes]) : 0.0f;
      longest2 = std::max(longest2, norms2[j % kLanes]);
    }
    longest_ = std::sqrt(longest2);
    if (kernels.codes_pay && k >= kFewestCoded && dim >= kShortestCoded && dim <= kLongestCoded) code();
  }

  std::size_t points_per_piece() const {
    const std::size_t bytes = panel_codes_.empty() ? dim_ * sizeof(float) : 2 * stride_;
    return std::clamp<std::size_t>(kTileBytes / (kLanes * bytes), 1, 16) * kLanes;
  }

  // Labels of points, at most points_per_piece() of them; distances may be null.
  void assign(const Points& points, std::int32_t* labels, float* distances, Scratch& scratch) const {
    if (panel_codes_.empty() || scratch.skip > 0) {
      scratch.skip -= std::min(scratch.skip, points.n);
      by_floats(points, labels, scratch);
    } else if (!by_codes(points, labels, scratch)) {
      // Codes say too little about these points, and likely about those that follow.
      scratch.skip = kPointsSkipped;
      by_floats(points, labels, scratch);
    }
    if (distances == nullptr) return;
    for (std::size_t i = 0; i < points.n; ++i) {
      const std::int64_t label = labels[i];
      score_rows(kernels_, metric_, points.rows + i * dim_, rows_, &label, 1, dim_, distances + i);
    }
  }

 private:
  static constexpr std::size_t kFewestCoded = 2 * kLanes;
  static constexpr std::size_t kShortestCoded = 24;
  static constexpr std::size_t kLongestCoded = 65'536;  // products stay below 2^31
  static constexpr std::size_t kPointsSkipped = 15 * 256;
  static constexpr std::size_t kFewestInDoubt = 8;  // for which floats are not worth it

  void code() {
    stride_ = (dim_ + 63) / 64 * 64;
    float largest = 0.0f;
    for (const float x : packed_) largest = std::max(largest, std::abs(x));
    std::vector<std::int8_t> codes(2 * n_panels_ * kLanes * stride_);
    std::vector<RowCode> facts(k_);
    std::vector<float> moved;
    const float* rows = rows_;
    if (order_ != nullptr) {
      moved.resize(k_ * dim_);
      for (std::size_t i = 0; i < k_; ++i) {
        std::copy_n(centroid(i), dim_, moved.data() + i * dim_);
      }
      rows = moved.data();
    }
    kernels_.code_rows(rows, k_, dim_, shift_.data(), largest, stride_, codes.data(), facts.data());
    scale_ = facts[0].scale;
    for (const RowCode& fact : facts) coded_.include(Lengths(fact, dim_));
    // From sixteen rows side by side to sixteen lanes of a panel.
    panel_codes_.resize(codes.size());
    const std::int8_t* from = codes.data();
    for (std::size_t panel = 0; panel < n_panels_; ++panel) {
      for (std::size_t d = 0; d < stride_; d += 64) {
        for (std::size_t plane = 0; plane < 2; ++plane) {
          std::int8_t* const to = panel_codes_.data() + ((2 * panel + plane) * stride_ + d) * kLanes;
          for (std::size_t lane = 0; lane < kLanes; ++lane) {
            for (std::size_t j = 0; j < 64; j += 4, from += 4) std::memcpy(to + j * kLanes + lane * 4, from, 4);
          }
        }
      }
    }
  }

  // The number of the centroid at a place in the panels, and its row.
  std::int64_t at(std::size_t place) const {
    return order_ == nullptr ? static_cast<std::int64_t>(place) : order_[place];
  }
  const float* centroid(std::size_t place) const { return rows_ + static_cast<std::size_t>(at(place)) * dim_; }

  // Returns false, and no labels, if codes leave doubt about too many points.
  bool by_codes(const Points& points, std::int32_t* labels, Scratch& s) const {
    const std::size_t count = points.n;
    const std::size_t n_points = (count + kLanes - 1) / kLanes * kLanes;
    // Behind the last point may stand anything: nobody looks at what becomes of it.
    s.codes.resize(2 * n_points * stride_);
    s.facts.resize(n_points);
    s.weights.resize(n_points);
    s.doubts.resize(n_points);
    s.labels.resize(n_points);
    s.winners.resize(n_points * 3 * kLanes);
    kernels_.code_rows(points.rows, count, dim_, shift_.data(), 0.0f, stride_, s.codes.data(), s.facts.data());
    const Doubt doubt(dim_, longest_);
    for (std::size_t i = 0; i < count; ++i) {
      const double unit = static_cast<double>(s.facts[i].scale) * static_cast<double>(scale_);
      // Scores come in these units, so that a point that has no code of its own needs none.
      const double weight = unit > 0 ? static_cast<double>(kFineSteps) / unit : 1.0;
      if (!(weight < 0x1p100)) return false;
      s.weights[i] = static_cast<float>(weight);
      s.doubts[i] = static_cast<float>(weight * doubt.of_codes(Lengths(s.facts[i], dim_), coded_) * (1 + 4 * kUnit));
    }
    const CodedPanels panels{panel_codes_.data(), bias_.data(), points.panels,
                             points.panels == nullptr ? n_panels_ : points.n_panels};
    kernels_.assign_codes(s.codes.data(), n_points, stride_, s.weights.data(), s.doubts.data(), panels,
                          s.winners.data(), s.labels.data());
    const auto n_doubtful = static_cast<std::size_t>(
        std::count(s.labels.begin(), s.labels.begin() + static_cast<std::ptrdiff_t>(count), -1));
    if (n_doubtful > std::max(kFewestInDoubt, count / 8)) return false;
    for (std::size_t i = 0; i < count; ++i) {
      labels[i] = s.labels[i] >= 0 ? static_cast<std::int32_t>(at(static_cast<std::size_t>(s.labels[i])))
                                   : settle_near(i, n_points, static_cast<double>(s.doubts[i]), points, s);
    }
    return true;
  }

  // Settles the i-th of n points on the centroids whose scores are not `doubt` behind its best.
  std::int32_t settle_near(std::size_t i, std::size_t n_points, double doubt, const Points& points, Scratch& s) const {
    const float* const scores = s.winners.data() + i * kLanes;
    const auto* const panels = reinterpret_cast<const std::int32_t*>(s.winners.data() + n_points * kLanes) + i * kLanes;
    const float* const seconds = s.winners.data() + 2 * n_points * kLanes + i * kLanes;
    const double behind = static_cast<double>(*std::max_element(scores, scores + kLanes)) - doubt;
    std::int64_t candidates[kLanes];
    std::size_t n = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      if (!(behind > static_cast<double>(seconds[lane]))) return settle_all(i, points, s);
      if (!(behind > static_cast<double>(scores[lane]))) {
        candidates[n++] = at(static_cast<std::size_t>(panels[lane]) * kLanes + lane);
      }
    }
    return settle(points.rows + i * dim_, candidates, n, s);
  }

  // Settles a point on all centroids that it meets.
  std::int32_t settle_all(std::size_t i, const Points& points, Scratch& s) const {
    const float* const x = points.rows + i * dim_;
    if (points.panels == nullptr) return settle(x, nullptr, k_, s);
    s.met.clear();
    for (std::size_t p = 0; p < points.n_panels; ++p) {
      const std::size_t first = points.panels[p] * kLanes;
      for (std::size_t place = first; place < std::min(k_, first + kLanes); ++place) s.met.push_back(at(place));
    }
    return settle(x, s.met.data(), s.met.size(), s);
  }

  void by_floats(const Points& points, std::int32_t* labels, Scratch& s) const {
    const std::size_t count = points.n;
    s.points.resize(count * dim_);
    s.norms2.resize(count);
    s.winners.resize(count * 3 * kLanes);
    s.scores.resize(count);
    s.runner_ups.resize(count);
    s.labels.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const float* const x = points.rows + i * dim_;
      kernels_.l2_rows(shift_.data(), x, nullptr, 1, dim_, s.norms2.data() + i);
      center_rows(&x, 1, shift_.data(), dim_, dim_, s.points.data() + i * dim_);
    }
    const Panels panels{packed_.data(), bias_.data(), points.panels,
                        points.panels == nullptr ? n_panels_ : points.n_panels};
    kernels_.assign(s.points.data(), count, panels, dim_, s.winners.data(), s.labels.data(), s.scores.data(),
                    s.runner_ups.data());
    const Doubt doubt(dim_, longest_);
    for (std::size_t i = 0; i < count; ++i) {
      const double ahead = static_cast<double>(s.scores[i]) - static_cast<double>(s.runner_ups[i]);
      const double needed = doubt.of_floats(length_of(s.norms2[i], dim_));
      labels[i] = ahead > needed ? static_cast<std::int32_t>(at(static_cast<std::size_t>(s.labels[i])))
                                 : settle_near(i, count, needed, points, s);
    }
  }

  // The nearest of n centroids by canonical distance, the smallest number among equals; the first n if ids is null.
  std::int32_t settle(const float* x, const std::int64_t* ids, std::size_t n, Scratch& s) const {
    s.distances.resize(std::max(s.distances.size(), n));
    score_rows(kernels_, metric_, x, rows_, ids, n, dim_, s.distances.data());
    Neighbor best{std::numeric_limits<float>::infinity(), std::numeric_limits<std::int64_t>::max()};
    for (std::size_t i = 0; i < n; ++i) {
      best = std::min(best, Neighbor{s.distances[i], ids == nullptr ? static_cast<std::int64_t>(i) : ids[i]});
    }
    return static_cast<std::int32_t>(best.id);
  }

  const Kernels& kernels_;
  Metric metric_;
  const float* rows_;
  std::size_t k_, dim_, n_panels_;
  const std::int64_t* order_;
  std::vector<float> shift_;
  Aligned<float> bias_, packed_;
  double longest_ = 0.0;
  // With codes:
  std::size_t stride_ = 0;
  Aligned<std::int8_t> panel_codes_;
  float scale_ = 0.0f;
  Lengths coded_;  // the longest
};

// Beyond this share of the panels, points that are dealt with in groups take longer.
constexpr double kLargestShare = 0.6;
constexpr std::size_t kSamples = 64;

// The share of the centroids that a few of the points must meet, each by itself: of the panels it is no less.
double least_share(const Kernels& kernels, const float* points, std::size_t n, std::size_t dim, const float* centroids,
                   std::size_t k, const std::int32_t* guesses) {
  std::vector<float> gaps(k);
  std::size_t met = 0;
  for (std::size_t s = 0; s < kSamples; ++s) {
    const std::size_t point = s * n / kSamples;
    const std::int64_t guess = guesses[point];
    float d2;
    kernels.l2_rows(points + point * dim, centroids, &guess, 1, dim, &d2);
    kernels.l2_rows(centroids + static_cast<std::size_t>(guess) * dim, centroids, nullptr, k, dim, gaps.data());
    met += static_cast<std::size_t>(std::count_if(gaps.begin(), gaps.end(), [&](float gap) { return gap <= 4 * d2; }));
  }
  return static_cast<double>(met) / static_cast<double>(kSamples * k);
}

// Points in the order of the places of their centroids; points of one centroid in their own.
std::vector<std::size_t> sorted_by_place(const Gaps& gaps, const std::int32_t* guesses, std::size_t n, std::size_t k) {
  std::vector<std::size_t> begin(k + 1, 0);
  const auto place = [&](std::size_t i) { return gaps.place()[static_cast<std::size_t>(guesses[i])]; };
  for (std::size_t i = 0; i < n; ++i) ++begin[place(i) + 1];
  for (std::size_t j = 0; j < k; ++j) begin[j + 1] += begin[j];
  std::vector<std::size_t> points(n);
  for (std::size_t i = 0; i < n; ++i) points[begin[place(i)]++] = i;
  return points;
}

// Points that have a centroid near to them already.
class Guided {
 public:
  Guided(const Kernels& kernels, const Gaps& gaps, const float* points, std::size_t n, std::size_t dim,
         const float* centroids, std::size_t k, const std::int32_t* guesses)
      : kernels_(kernels),
        gaps_(gaps),
        points_(points),
        n_(n),
        dim_(dim),
        centroids_(centroids),
        guesses_(guesses),
        order_(sorted_by_place(gaps, guesses, n, k)) {}

  // The share of panels that a few of the points must meet.
  double expected_share() const {
    Scratch scratch;
    std::size_t met = 0;
    const std::size_t n_groups = (n_ + kLanes - 1) / kLanes;
    const std::size_t n_samples = std::min(n_groups, kSamples);
    for (std::size_t i = 0; i < n_samples; ++i) met += gather(i * n_groups / n_samples, scratch).n_panels;
    return static_cast<double>(met) / static_cast<double>(n_samples * gaps_.n_panels());
  }

  // The labels of the g-th group of points, and their distances unless that is null.
  void assign(const Centroids& all, std::size_t g, std::int32_t* labels, float* distances, Scratch& scratch) const {
    const Points points = gather(g, scratch);
    scratch.n_met += points.n_panels;
    std::int32_t found[kLanes];
    float at[kLanes];
    all.assign(points, found, distances == nullptr ? nullptr : at, scratch);
    for (std::size_t i = 0; i < points.n; ++i) {
      labels[order_[g * kLanes + i]] = found[i];
      if (distances != nullptr) distances[order_[g * kLanes + i]] = at[i];
    }
  }

 private:
  // Asks for the next group's points too: they lie anywhere.
  Points gather(std::size_t g, Scratch& s) const {
    const std::size_t first = g * kLanes;
    const std::size_t n = std::min(kLanes, n_ - first);
    for (std::size_t i = first + n; i < std::min(n_, first + n + kLanes); ++i) {
      const float* const row = points_ + order_[i] * dim_;
      for (std::size_t d = 0; d < dim_; d += 64 / sizeof(float)) LW_PREFETCH_FAR(row + d);
    }
    s.gathered.resize(kLanes * dim_);
    s.panels.resize(gaps_.n_panels());
    std::int32_t guesses[kLanes];
    float d2[kLanes];
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t point = order_[first + i];
      std::copy_n(points_ + point * dim_, dim_, s.gathered.data() + i * dim_);
      guesses[i] = guesses_[point];
      const std::int64_t guess = guesses[i];
      kernels_.l2_rows(s.gathered.data() + i * dim_, centroids_, &guess, 1, dim_, d2 + i);
    }
    return {s.gathered.data(), n, s.panels.data(), gaps_.panels_to_meet(guesses, d2, n, s.panels.data())};
  }

  const Kernels& kernels_;
  const Gaps& gaps_;
  const float* points_;
  std::size_t n_, dim_;
  const float* centroids_;
  const std::int32_t* guesses_;
  std::vector<std::size_t> order_;
};

constexpr std::size_t kGroupsPerPiece = 16;

// Of points whose clusters are sorted out together: sums are read and written once for so many, and numbers fit.
constexpr std::size_t kPointsPerCluster = 64;
constexpr std::size_t kFewestInPart = 1 << 16;
constexpr std::size_t kMostInPart = std::size_t{1} << 31;

}  // namespace

bool assign(const Kernels& kernels, Metric metric, const float* points, std::size_t n, std::size_t dim,
            const float* centroids, std::size_t k, std::int32_t* labels, float* distances, std::size_t n_threads,
            const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const Centroids all(kernels, metric, centroids, k, dim, nullptr);
  const std::size_t per_piece = all.points_per_piece();
  const std::size_t n_pieces = (n + per_piece - 1) / per_piece;
  n_threads = std::min(n_threads, std::max<std::size_t>(n_pieces, 1));
  std::vector<Scratch> scratch(n_threads);
  return parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t worker) {
    const std::size_t begin = piece * per_piece;
    all.assign({points + begin * dim, std::min(per_piece, n - begin)}, labels + begin,
               distances == nullptr ? nullptr : distances + begin, scratch[worker]);
  });
}

bool reassign(const Kernels& kernels, const float* points, std::size_t n, std::size_t dim, const float* centroids,
              std::size_t k, const std::int32_t* guesses, std::int32_t* labels, float* distances, std::size_t n_threads,
              const Interrupt& interrupt, double& share) {
  share = 1.0;
  const DefaultFloatMode mode;
  if (Gaps::pay(n, dim, k) && least_share(kernels, points, n, dim, centroids, k, guesses) < kLargestShare) {
    bool finished = true;
    const Gaps gaps(kernels, centroids, k, dim, n_threads, interrupt, finished);
    if (!finished) return false;
    const Guided guided(kernels, gaps, points, n, dim, centroids, k, guesses);
    if (guided.expected_share() < kLargestShare) {
      const Centroids all(kernels, Metric::kL2, centroids, k, dim, gaps.order().data());
      std::vector<Scratch> scratch(n_threads);
      const std::size_t n_groups = (n + kLanes - 1) / kLanes;
      const std::size_t n_pieces = (n_groups + kGroupsPerPiece - 1) / kGroupsPerPiece;
      finished = parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t worker) {
        const std::size_t last = std::min(n_groups, (piece + 1) * kGroupsPerPiece);
        for (std::size_t g = piece * kGroupsPerPiece; g < last; ++g) {
          guided.assign(all, g, labels, distances, scratch[worker]);
        }
      });
      std::size_t met = 0;
      for (const Scratch& one : scratch) met += one.n_met;
      share = static_cast<double>(met) / static_cast<double>(n_groups * gaps.n_panels());
      return finished;
    }
  }
  return assign(kernels, Metric::kL2, points, n, dim, centroids, k, labels, distances, n_threads, interrupt);
}

bool cluster_sums(const Kernels& kernels, const float* points, std::size_t n, std::size_t dim,
                  const std::int32_t* labels, const double* weights, std::size_t k, double* sums, double* totals,
                  std::int64_t* counts, std::size_t n_threads, const Interrupt& interrupt) {
  std::fill_n(sums, k * dim, 0.0);
  std::fill_n(totals, k, 0.0);
  std::fill_n(counts, k, std::int64_t{0});
  // Points of a part at a time, so that what says where they are stays small beside them.
  const std::size_t part = std::clamp<std::size_t>(kPointsPerCluster * k, kFewestInPart, kMostInPart);
  std::vector<std::uint32_t> begin(k + 1);
  std::vector<std::uint32_t> next(k);
  std::vector<std::uint32_t> members(std::min(n, part));
  for (std::size_t first = 0; first < n; first += part) {
    const std::size_t n_part = std::min(part, n - first);
    // A counting sort puts the points of a cluster side by side in their order, so that each cluster is one chain.
    std::fill(begin.begin(), begin.end(), 0u);
    for (std::size_t i = 0; i < n_part; ++i) ++begin[static_cast<std::size_t>(labels[first + i]) + 1];
    for (std::size_t j = 0; j < k; ++j) begin[j + 1] += begin[j];
    std::copy_n(begin.begin(), k, next.begin());
    for (std::size_t i = 0; i < n_part; ++i) {
      members[next[static_cast<std::size_t>(labels[first + i])]++] = static_cast<std::uint32_t>(i);
    }
    const double* const own = weights == nullptr ? nullptr : weights + first;
    const bool finished = parallel_for(k, n_threads, interrupt, [&](std::size_t j, std::size_t) {
      const std::size_t size = begin[j + 1] - begin[j];
      counts[j] += static_cast<std::int64_t>(size);
      for (std::size_t m = begin[j]; m < begin[j + 1]; ++m) totals[j] += own == nullptr ? 1.0 : own[members[m]];
      kernels.add_rows(points + first * dim, members.data() + begin[j], size, dim, own, sums + j * dim);
    });
    if (!finished) return false;
  }
  return true;
}

}  // namespace lw
