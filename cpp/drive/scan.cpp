#include "scan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "float_mode.h"
#include "topk.h"

namespace lw {
namespace {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1.0f

// A piece of a query's work: consecutive blocks with one running bound. Its size is fixed, so that the pruning, and
// with it an inexact answer, is the same for any number of threads.
constexpr std::size_t kPositionsPerPiece = 4096;
constexpr std::size_t kPiecesPerWave = 8;

struct Range {
  std::int64_t begin, end;  // positions
  std::int64_t size;        // rows from begin on; the rest is padding
};

// Consecutive ranges that belong to one piece.
struct Piece {
  std::size_t first, last;
};

// What a query needs to turn "canonical distance above the bound" into a limit for partial sums on the blocks.
//
// Let r = |q - x|, w = r^2 as the bound would have it, s the partial sum that the scan has computed. The rotated,
// centred vectors are off by at most g = rotation error * (|q - c| + |x - c|), and a sum of squares in float by a
// relative eta, so r^2 <= w implies s <= (sqrt(w) + g)^2 (1 + eta) <= (w (1 + tau) + g^2 (1 + 1 / tau)) (1 + eta).
struct Limits {
  double eta;
  double tau;
  double slack;           // added to w: g^2 (1 + 1 / tau) / (1 + tau), rounding of w itself, underflow
  double product_offset;  // products: w - |x|^2 - 2 * bound, and how far it may be off because the bound is rounded

  Limits(const Rotation& rotation, const Store& store, const float* query) {
    const double dim = static_cast<double>(store.dim);
    eta = (dim + 8) * kUnit * 1.02;
    tau = 0x1p-9;
    double centered2 = 0.0;
    double query_norm2 = 0.0;
    for (std::size_t d = 0; d < store.dim; ++d) {
      const double q = static_cast<double>(query[d]);
      const double c = q - static_cast<double>(store.center[d]);
      query_norm2 += q * q;
      centered2 += c * c;
    }
    // One rounding for the subtraction of the centre on top of the rotation's own.
    const double g = (rotation.error_bound() + kUnit) * (std::sqrt(centered2) + store.max_centered_norm) * 1.01;
    slack = g * g * (1 + 1 / tau) / (1 + tau) + dim * 0x1p-146;
    const double length = std::sqrt(query_norm2) * store.max_norm;
    const double one = store.metric == Metric::kCosine ? 1.0 : 0.0;
    const double product_slack =
        2 * eta * length + 8 * kUnit * (query_norm2 + store.max_norm * store.max_norm + 2 * length + 2 * one);
    product_offset = query_norm2 - 2 * one + product_slack;
  }

  // norms[c] + offset(bound) is an upper bound of w for every candidate that could still enter.
  float offset(Metric metric, float bound) const {
    const double w = metric == Metric::kL2 ? static_cast<double>(bound) * (1 + 2 * eta)
                                           : product_offset + 2 * static_cast<double>(bound);
    return static_cast<float>((w + slack) * (w + slack > 0 ? 1 + 4 * kUnit : 1 - 4 * kUnit));
  }

  double certain_scale() const { return (1 + tau) * (1 + eta) * (1 + eta) * (1 + 8 * kUnit); }
};

// scale[s] of step s: min(certain, (i / D) (1 + eps0 / sqrt(i))^2) with i dimensions seen (Gao & Long 2023, section 3).
std::vector<float> step_scales(std::size_t dim, const ScanParameters& p, double certain) {
  std::vector<float> scales;
  for (std::size_t seen = std::min(p.delta, dim);; seen = std::min(seen + p.delta, dim)) {
    const double i = static_cast<double>(seen);
    const double factor = 1 + p.eps0 / std::sqrt(i);
    const double sampled = i / static_cast<double>(dim) * factor * factor;
    scales.push_back(static_cast<float>(std::min(certain, sampled)));
    if (seen == dim) return scales;
  }
}

// Everything that one query's pieces share.
class Query {
 public:
  Query(const Kernels& kernels, const Rotation& rotation, const Store& store, const ScanParameters& parameters,
        const float* query)
      : kernels_(kernels),
        store_(store),
        parameters_(parameters),
        query_(query),
        rotated_(store.dim),
        limits_(rotation, store, query),
        scales_(step_scales(store.dim, parameters, limits_.certain_scale())) {
    std::vector<float> scratch(store.dim);
    rotate(kernels, rotation, store.center, query, rotated_.data(), scratch.data());
  }

  // Scans the ranges of a piece, starting from the bound of `best`, and appends to `found` what entered.
  void scan_piece(const Range* ranges, const Piece& piece, TopK best, std::vector<Neighbor>& found,
                  ScanStats& stats) const {
    for (std::size_t r = piece.first; r < piece.last; ++r) {
      const Range& range = ranges[r];
      for (std::int64_t begin = range.begin; begin < range.end; begin += static_cast<std::int64_t>(kBlock)) {
        const std::int64_t n_rows = range.begin + range.size - begin;
        if (n_rows <= 0) break;
        scan_block(static_cast<std::size_t>(begin),
                   static_cast<std::size_t>(std::min<std::int64_t>(range.end - begin, kBlock)),
                   static_cast<std::size_t>(std::min<std::int64_t>(n_rows, kBlock)), best, found, stats);
      }
    }
  }

 private:
  void scan_block(std::size_t begin, std::size_t width, std::size_t n_rows, TopK& best, std::vector<Neighbor>& found,
                  ScanStats& stats) const {
    const std::size_t dim = store_.dim;
    std::uint64_t alive = n_rows == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n_rows) - 1;
    stats.candidates += n_rows;
    const float bound = best.bound();
    if (bound < std::numeric_limits<float>::infinity()) {
      float partial[kBlock] = {};
      const float offset = limits_.offset(store_.metric, bound);
      const float* const block = store_.blocks + begin * dim;
      std::size_t seen = 0;
      for (std::size_t step = 0; step < scales_.size() && worth_pruning(alive); ++step) {
        const std::size_t next = std::min(seen + parameters_.delta, dim);
        stats.dimensions += static_cast<std::uint64_t>(std::popcount(alive)) * (next - seen);
        alive = kernels_.prune(block, width, rotated_.data(), seen, next, partial, store_.norms + begin, offset,
                               scales_[step], alive);
        seen = next;
      }
    }
    settle(begin, alive, best, found, stats);
  }

  // Reading the survivors' rows costs |alive| * dim floats; one more step on the block reads delta floats for each of
  // the kLanes candidates of every group that still has one. The cheaper goes first.
  bool worth_pruning(std::uint64_t alive) const {
    std::size_t n_groups = 0;
    for (std::uint64_t rest = alive; rest != 0; rest >>= kLanes) n_groups += (rest & 0xFFFF) != 0 ? 1 : 0;
    return static_cast<std::size_t>(std::popcount(alive)) * store_.dim > n_groups * kLanes * parameters_.delta;
  }

  void settle(std::size_t begin, std::uint64_t alive, TopK& best, std::vector<Neighbor>& found,
              ScanStats& stats) const {
    std::int64_t ids[kBlock];
    float distances[kBlock];
    std::size_t n = 0;
    for (; alive != 0; alive &= alive - 1) {
      ids[n++] = store_.ids[begin + static_cast<std::size_t>(std::countr_zero(alive))];
    }
    score_rows(kernels_, store_.metric, query_, store_.rows, ids, n, store_.dim, distances);
    stats.settled += n;
    stats.dimensions += n * store_.dim;
    for (std::size_t i = 0; i < n; ++i) {
      const Neighbor candidate{distances[i], ids[i]};
      if (best.push(candidate)) found.push_back(candidate);
    }
  }

  const Kernels& kernels_;
  const Store& store_;
  const ScanParameters& parameters_;
  const float* query_;
  std::vector<float> rotated_;
  Limits limits_;
  std::vector<float> scales_;
};

// The probed lists as ranges no longer than a piece, and the pieces that they make up.
void cut(const Store& store, const std::int64_t* probes, std::size_t n_probe, std::vector<Range>& ranges,
         std::vector<Piece>& pieces) {
  ranges.clear();
  pieces.clear();
  for (std::size_t i = 0; i < n_probe; ++i) {
    const std::int64_t list = probes == nullptr ? static_cast<std::int64_t>(i) : probes[i];
    if (list < 0) continue;
    const auto l = static_cast<std::size_t>(list);
    const std::int64_t end = store.list_begin[l + 1];
    for (std::int64_t at = store.list_begin[l]; at < end; at += kPositionsPerPiece) {
      const std::int64_t stop = std::min<std::int64_t>(end, at + kPositionsPerPiece);
      ranges.push_back({at, stop, std::min(stop - at, store.list_begin[l] + store.list_size[l] - at)});
    }
  }
  std::size_t positions = 0;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (pieces.empty() || positions >= kPositionsPerPiece) {
      pieces.push_back({i, i});
      positions = 0;
    }
    pieces.back().last = i + 1;
    positions += static_cast<std::size_t>(ranges[i].end - ranges[i].begin);
  }
}

}  // namespace

bool fill_blocks(const Kernels& kernels, const Rotation& rotation, const float* center, const float* rows,
                 std::size_t n_lists, const std::int64_t* list_begin, const std::int64_t* ids,
                 std::size_t first_position, float* norms, float* blocks, double* max_centered_norm2,
                 std::size_t n_threads, const Interrupt& interrupt) {
  const std::size_t dim = rotation.dim;
  struct Block {
    std::size_t begin, width;
    double max_centered_norm2;
  };
  std::vector<Block> work;
  for (std::size_t l = 0; l < n_lists; ++l) {
    const auto end = static_cast<std::size_t>(list_begin[l + 1]);
    auto begin = static_cast<std::size_t>(list_begin[l]);
    if (begin < first_position) begin += std::min(first_position - begin, end - begin) / kBlock * kBlock;
    for (; begin < end; begin += kBlock) work.push_back({begin, std::min(end - begin, kBlock), 0.0});
  }
  const bool finished = parallel_for(work.size(), n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    auto& [begin, width, largest] = work[piece];
    std::vector<float> row(dim);
    std::vector<float> scratch(dim);
    float* const block = blocks + begin * dim;
    for (std::size_t c = 0; c < width; ++c) {
      const std::int64_t id = ids[begin + c];
      double norm2 = 0.0;
      if (id < 0) {
        std::fill(row.begin(), row.end(), 0.0f);
      } else {
        const float* const original = rows + static_cast<std::size_t>(id) * dim;
        rotate(kernels, rotation, center, original, row.data(), scratch.data());
        double centered2 = 0.0;
        for (std::size_t d = 0; d < dim; ++d) {
          const double x = static_cast<double>(original[d]);
          const double difference = x - static_cast<double>(center[d]);
          centered2 += difference * difference;
          norm2 += x * x;
        }
        largest = std::max(largest, centered2);
      }
      if (norms != nullptr) norms[begin + c] = static_cast<float>(norm2);
      for (std::size_t d = 0; d < dim; ++d) block[d * width + c] = row[d];
    }
  });
  *max_centered_norm2 = 0.0;
  for (const Block& block : work) *max_centered_norm2 = std::max(*max_centered_norm2, block.max_centered_norm2);
  return finished;
}

bool scan(const Kernels& kernels, const Rotation& rotation, const Store& store, const ScanParameters& parameters,
          const float* queries, std::size_t n_queries, const std::int64_t* probes, std::size_t n_probe,
          float* distances, std::int64_t* ids, ScanStats* stats, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const std::size_t k = parameters.k;
  if (probes == nullptr) n_probe = store.n_lists;
  const auto one_query = [&](std::size_t q, std::size_t threads, const Interrupt& ask) {
    std::vector<Range> ranges;
    std::vector<Piece> pieces;
    cut(store, probes == nullptr ? nullptr : probes + q * n_probe, n_probe, ranges, pieces);
    const Query query(kernels, rotation, store, parameters, queries + q * store.dim);
    TopK best(k);
    stats[q] = {};
    // Waves of 1, 1, 2, 4, 8, 8, ... pieces: those of a wave start from one bound and can run side by side.
    std::vector<std::vector<Neighbor>> found(kPiecesPerWave);
    std::vector<ScanStats> seen(kPiecesPerWave);
    for (std::size_t first = 0; first < pieces.size();) {
      const std::size_t n = std::min({std::max<std::size_t>(first, 1), kPiecesPerWave, pieces.size() - first});
      const bool finished = parallel_for(n, threads, ask, [&](std::size_t i, std::size_t) {
        found[i].clear();
        seen[i] = {};
        query.scan_piece(ranges.data(), pieces[first + i], best, found[i], seen[i]);
      });
      if (!finished) return false;
      for (std::size_t i = 0; i < n; ++i) {
        for (const Neighbor& candidate : found[i]) best.push(candidate);
        stats[q].candidates += seen[i].candidates;
        stats[q].dimensions += seen[i].dimensions;
        stats[q].settled += seen[i].settled;
      }
      first += n;
    }
    best.write(distances + q * k, ids + q * k);
    return true;
  };
  // Few queries share the threads within each of them, many are dealt out whole: the answers are the same.
  if (n_queries < 2 * n_threads) {
    for (std::size_t q = 0; q < n_queries; ++q) {
      if (!one_query(q, n_threads, interrupt)) return false;
    }
    return true;
  }
  return parallel_for(n_queries, n_threads, interrupt, [&](std::size_t q, std::size_t) { (void)one_query(q, 1, {}); });
}

}  // namespace lw
