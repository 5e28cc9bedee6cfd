#include "scan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "search.h"

namespace lw {
namespace {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1.0f

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

  Limits(const Store& store, const Blocks& blocks, const float* query) {
    const double dim = static_cast<double>(store.dim);
    eta = (dim + 8) * kUnit * 1.02;
    tau = 0x1p-9;
    double centered2 = 0.0;
    double query_norm2 = 0.0;
    for (std::size_t d = 0; d < store.dim; ++d) {
      const double q = static_cast<double>(query[d]);
      const double c = q - static_cast<double>(blocks.center[d]);
      query_norm2 += q * q;
      centered2 += c * c;
    }
    // One rounding for the subtraction of the centre on top of the rotation's own.
    const double g = (blocks.rotation.error_bound() + kUnit) * (std::sqrt(centered2) + blocks.max_centered_norm) * 1.01;
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
std::vector<float> step_scales(std::size_t dim, const Request& request, double certain) {
  std::vector<float> scales;
  for (std::size_t seen = std::min(request.delta, dim);; seen = std::min(seen + request.delta, dim)) {
    const double i = static_cast<double>(seen);
    const double factor = 1 + request.eps0 / std::sqrt(i);
    const double sampled = i / static_cast<double>(dim) * factor * factor;
    scales.push_back(static_cast<float>(std::min(certain, sampled)));
    if (seen == dim) return scales;
  }
}

// Everything that one query's pieces share.
class Query {
 public:
  Query(const Kernels& kernels, const Store& store, const Blocks& blocks, const Request& request, const float* query)
      : kernels_(kernels),
        store_(store),
        blocks_(blocks),
        request_(request),
        query_(query),
        rotated_(store.dim),
        limits_(store, blocks, query),
        scales_(step_scales(store.dim, request, limits_.certain_scale())) {
    std::vector<float> scratch(store.dim);
    rotate(kernels, blocks.rotation, blocks.center, query, rotated_.data(), scratch.data());
  }

  void scan(const Range* ranges, std::size_t n_ranges, Search& search) const {
    for (std::size_t r = 0; r < n_ranges; ++r) {
      const Range& range = ranges[r];
      for (std::int64_t begin = range.begin; begin < range.begin + range.size;
           begin += static_cast<std::int64_t>(kBlock)) {
        scan_block(static_cast<std::size_t>(begin),
                   static_cast<std::size_t>(std::min<std::int64_t>(range.end - begin, kBlock)),
                   static_cast<std::size_t>(std::min<std::int64_t>(range.begin + range.size - begin, kBlock)), search);
      }
    }
  }

 private:
  void scan_block(std::size_t begin, std::size_t width, std::size_t n_rows, Search& search) const {
    const std::size_t dim = store_.dim;
    std::uint64_t alive = allowed_mask(store_, request_, begin, n_rows);
    search.stats.candidates += static_cast<std::uint64_t>(std::popcount(alive));
    const float bound = search.best.bound();
    if (bound < std::numeric_limits<float>::infinity()) {
      float partial[kBlock] = {};
      const float offset = limits_.offset(store_.metric, bound);
      const float* const block = blocks_.data + begin * dim;
      std::size_t seen = 0;
      for (std::size_t step = 0; step < scales_.size() && worth_pruning(alive); ++step) {
        const std::size_t next = std::min(seen + request_.delta, dim);
        search.stats.dimensions += static_cast<std::uint64_t>(std::popcount(alive)) * (next - seen);
        alive = kernels_.prune(block, width, rotated_.data(), seen, next, partial, blocks_.norms + begin, offset,
                               scales_[step], alive);
        seen = next;
      }
    }
    std::int64_t rows[kBlock];
    std::size_t n = 0;
    for (; alive != 0; alive &= alive - 1) {
      rows[n++] = store_.row(begin + static_cast<std::size_t>(std::countr_zero(alive)));
    }
    settle(kernels_, store_, query_, rows, n, search);
  }

  // Reading the survivors' rows costs |alive| * dim floats; one more step on the block reads delta floats for each of
  // the kLanes candidates of every group that still has one. The cheaper goes first.
  bool worth_pruning(std::uint64_t alive) const {
    std::size_t n_groups = 0;
    for (std::uint64_t rest = alive; rest != 0; rest >>= kLanes) n_groups += (rest & 0xFFFF) != 0 ? 1 : 0;
    return static_cast<std::size_t>(std::popcount(alive)) * store_.dim > n_groups * kLanes * request_.delta;
  }

  const Kernels& kernels_;
  const Store& store_;
  const Blocks& blocks_;
  const Request& request_;
  const float* query_;
  std::vector<float> rotated_;
  Limits limits_;
  std::vector<float> scales_;
};

struct Plan {
  const Kernels& kernels;
  const Store& store;
  const Blocks& blocks;
  const Request& request;

  template <class Run>
  std::vector<Query> prepare(std::size_t first, std::size_t n, const Run&) const {
    std::vector<Query> queries;
    queries.reserve(n);
    for (std::size_t q = first; q < first + n; ++q) {
      queries.emplace_back(kernels, store, blocks, request, request.queries + q * store.dim);
    }
    return queries;
  }

  void scan_tile(const std::vector<Query>& queries, const Range* ranges, std::size_t n_ranges, Search* searches) const {
    for (std::size_t q = 0; q < queries.size(); ++q) queries[q].scan(ranges, n_ranges, searches[q]);
  }
};

}  // namespace

bool fill_blocks(const Kernels& kernels, const Rotation& rotation, const float* center, const Store& store,
                 std::size_t first, std::size_t last, float* norms, float* data, double* max_centered_norm2,
                 std::size_t n_threads, const Interrupt& interrupt) {
  const std::size_t dim = rotation.dim;
  struct Block {
    std::size_t begin, width;
    double max_centered_norm2;
  };
  std::vector<Block> work;
  for (std::size_t l = 0; l < store.n_lists; ++l) {
    const auto end = static_cast<std::size_t>(store.list_begin[l + 1]);
    auto begin = static_cast<std::size_t>(store.list_begin[l]);
    if (begin < first) begin += std::min(first - begin, end - begin) / kBlock * kBlock;
    for (; begin < std::min(end, last); begin += kBlock) work.push_back({begin, std::min(end - begin, kBlock), 0.0});
  }
  const bool finished = parallel_for(work.size(), n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    auto& [begin, width, largest] = work[piece];
    std::vector<float> row(dim);
    std::vector<float> scratch(dim);
    std::vector<float> widened(store.rows.room(1, dim));
    float* const block = data + begin * dim;
    for (std::size_t c = 0; c < width; ++c) {
      const float* const original = store.row_data(begin + c, widened.data());
      double norm2 = 0.0;
      if (original == nullptr) {
        std::fill(row.begin(), row.end(), 0.0f);
      } else {
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

bool scan_blocks(const Kernels& kernels, const Store& store, const Blocks& blocks, const Request& request,
                 const Output& output, std::size_t n_threads, const Interrupt& interrupt) {
  return search_lists(store, request, Plan{kernels, store, blocks, request}, output, n_threads, interrupt);
}

}  // namespace lw
