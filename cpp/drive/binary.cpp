#include "binary.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "../prefetch.h"
#include "numbers.h"
#include "runs.h"
#include "search.h"
#include "shortlist.h"

namespace lw {
namespace {

// |code| of a query: four of them are an entry of a table.
constexpr double kLargestCode = static_cast<double>(kBitEntry) / 4;
// That of its codes that meet fine ones.
constexpr double kLargestFine = 127;

std::size_t n_panels(const BitPlan& plan) { return (plan.n_axes + kLanes - 1) / kLanes; }

// Some vectors on their way to the bits; a null one stays zero.
struct Projected {
  std::vector<float> centred;  // [n, dim]
  std::vector<float> y;        // [n, n_bits]

  Projected(const Kernels& kernels, const BitPlan& plan, const float* const* x, std::size_t n)
      : centred(n * plan.dim), y(n * plan.n_bits) {
    center_rows(x, n, plan.center, plan.dim, plan.dim, centred.data());
    const std::size_t stride = plan.panels == nullptr ? plan.dim : n_panels(plan) * kLanes;
    std::vector<float> on_axes(plan.panels == nullptr ? 0 : n * stride);
    if (plan.panels != nullptr) {
      kernels.project(centred.data(), n, plan.dim, plan.panels, n_panels(plan), on_axes.data());
    }
    const float* const from = plan.panels == nullptr ? centred.data() : on_axes.data();
    std::vector<float> padded(plan.n_bits);
    std::vector<float> scratch(plan.n_bits);
    for (std::size_t i = 0; i < n; ++i) {
      std::copy_n(from + i * stride, plan.n_axes, padded.data());
      rotate(kernels, plan.rotation, nullptr, padded.data(), y.data() + i * plan.n_bits, scratch.data());
    }
  }
};

// What makes an estimate of products with y from those with something like it.
struct Likeness {
  double factor;  // |y|^2 / <s, y>
  double error;   // standard deviation, for a query of length 1

  // inside2 is |y|^2, outside2 what the row has beside y, product <s, y>, s2 |s|^2.
  Likeness(const BitPlan& plan, double inside2, double outside2, double product, double s2)
      : factor(product > 0 ? inside2 / product : 0.0) {
    // |y| sqrt((1 - <o, s>^2) / <o, s>^2 / (m - 1)) with the unit vectors o and s along y and s.
    const double beside2 = std::max(factor * factor * s2 - inside2, 0.0) / static_cast<double>(plan.n_bits - 1);
    error = std::sqrt(beside2 + outside2 * plan.outside);
  }
};

// A step of the fine codes in standard deviations of a coordinate: that which loses least of a normal distribution.
double fine_step(std::size_t bits) { return bits == 2 ? 0.9957 : 0.3352; }

// Codes y at position `at`. Half of the levels lie on either side of 0.
Likeness code_fine(const BitPlan& plan, const Bits& bits, std::size_t at, const float* y, double inside2,
                   double outside2) {
  const double step = fine_step(plan.fine_bits) * std::sqrt(inside2 / static_cast<double>(plan.n_bits));
  const double half = static_cast<double>(1 << (plan.fine_bits - 1));
  const std::size_t read = plan.fine_read();
  auto* const row = reinterpret_cast<std::uint8_t*>(bits.fine) + at * plan.fine_stride();
  std::fill_n(row, plan.fine_stride(), std::uint8_t{0});
  double product = 0.0;
  double length2 = 0.0;
  for (std::size_t d = 0; d < plan.n_bits; ++d) {
    const auto x = static_cast<double>(y[d]);
    const double code = step > 0 ? std::clamp(std::floor(x / step), -half, half - 1) : 0.0;
    product += x * (2 * code + 1);
    length2 += (2 * code + 1) * (2 * code + 1);
    const std::size_t shift = d % read / 64 * plan.fine_bits;
    row[d / read * 64 + d % 64] |= static_cast<std::uint8_t>(static_cast<unsigned>(code + half) << shift);
  }
  return {plan, inside2, outside2, product, length2};
}

// Enters row x, which is `centred` and y, as position `at`.
void enter(const Store& store, const BitPlan& plan, const Bits& bits, std::size_t at, const float* x,
           const float* centred, const float* y) {
  const double length2 = dot(centred, centred, plan.dim);
  const double inside2 = dot(y, y, plan.n_bits);
  const double outside2 = std::max(length2 - inside2, 0.0);
  double sum = 0.0;
  for (std::size_t d = 0; d < plan.n_bits; ++d) sum += std::abs(static_cast<double>(y[d]));
  const Likeness signs(plan, inside2, outside2, sum, static_cast<double>(plan.n_bits));
  bits.base[at] = static_cast<float>(store.metric == Metric::kL2
                                         ? length2 / 2
                                         : dot(plan.center, plan.center, plan.dim) - dot(plan.center, x, plan.dim));
  bits.factors[at] = to_bf16(signs.factor);
  bits.errors[at] = to_bf16(signs.error, 0xFFFF);
  if (plan.fine_bits == 0) return;
  const Likeness fine = code_fine(plan, bits, at, y, inside2, outside2);
  bits.fine_factors[at] = static_cast<float>(fine.factor);
  bits.fine_errors[at] = to_bf16(fine.error, 0xFFFF);
}

// One query, ready to meet bits.
class Query {
 public:
  Query(const Kernels& kernels, const Store& store, const BitPlan& plan, const Bits& bits, const Request& request,
        const float* z)
      : kernels_(kernels),
        store_(store),
        plan_(plan),
        bits_(bits),
        request_(request),
        tables_(4 * plan.n_bits),
        fine_(plan.n_fine()) {
    double largest = 0.0;
    for (std::size_t d = 0; d < plan.n_bits; ++d) largest = std::max(largest, std::abs(static_cast<double>(z[d])));
    step_ = static_cast<float>(largest / kLargestCode);
    for (std::size_t d = 0; d < plan.n_bits; d += 4) {
      int code[4];
      for (std::size_t i = 0; i < 4; ++i) {
        code[i] = static_cast<int>(nearest_code(static_cast<double>(z[d + i]), step_, kLargestCode));
        total_ += std::abs(code[i]);
      }
      // An entry adds up what has the code's sign, so that none is negative: the product is 2 * entries - total.
      const std::size_t byte = d / 8;
      std::uint8_t* const table = tables_.data() + ((byte / 4 * 2 + d / 4 % 2) * 4 + byte % 4) * kLanes;
      for (std::size_t entry = 0; entry < 16; ++entry) {
        int sum = 0;
        for (std::size_t i = 0; i < 4; ++i) sum += (entry >> i & 1) == (code[i] > 0 ? 1u : 0u) ? std::abs(code[i]) : 0;
        table[entry] = static_cast<std::uint8_t>(sum);
      }
    }
    if (fine_.empty()) return;
    fine_step_ = static_cast<float>(largest / kLargestFine);
    for (std::size_t d = 0; d < plan.n_bits; ++d) {
      fine_[d] = static_cast<std::int8_t>(nearest_code(static_cast<double>(z[d]), fine_step_, kLargestFine));
      fine_sum_ += fine_[d];
    }
  }

  void scan(const Range* ranges, std::size_t n_ranges, Shortlist& list) const {
    for_each_run(ranges, n_ranges, [&](std::size_t at, std::size_t n) { run(at, n, 1, list); });
  }

  // A first bound: what a sample of groups says that somewhat more than the best are within. Without it most of the
  // work were to enter candidates, and to drop them again.
  void guess(const std::vector<Range>& ranges, Shortlist& list) const {
    const std::size_t hits = std::min(kHits, list.size / kLeastStride);
    if (hits < kFewestHits) return;
    // Four standard deviations of what such a sample catches.
    const auto rank = hits + static_cast<std::size_t>(4 * std::sqrt(static_cast<double>(hits))) + 4;
    Shortlist sample{rank, std::numeric_limits<float>::infinity(), {}, {}};
    for_each_run(ranges.data(), ranges.size(),
                 [&](std::size_t at, std::size_t n) { run(at, n, list.size / hits, sample); });
    list.stats.dimensions += sample.stats.dimensions;
    if (sample.keys.size() < rank) return;
    sample.cut();
    list.bound = sample.bound;
  }

  // Scans once more if the guess was wrong, and estimates the best by their signs again, by their fine codes.
  template <class Run>
  void catch_up(bool last, const std::vector<Range>& ranges, const Run& run, Shortlist& list) const {
    if (!last) return;
    if (list.keys.size() < std::min<std::size_t>(list.size, list.stats.candidates)) {
      Shortlist again{list.size, std::numeric_limits<float>::infinity(), {}, {}};
      scan(ranges.data(), ranges.size(), again);
      again.stats.dimensions += list.stats.dimensions;
      list = std::move(again);
    }
    if (fine_.empty()) return;
    list.cut();
    std::vector<std::uint64_t>& keys = list.keys;
    run((keys.size() + kTogether - 1) / kTogether, [&](std::size_t piece) {
      const std::size_t first = piece * kTogether;
      refine(keys.data() + first, std::min(kTogether, keys.size() - first));
    });
    list.stats.dimensions += keys.size() * plan_.n_bits;
    list.size = request_.rerank;
    list.bound = std::numeric_limits<float>::infinity();
  }

 private:
  static constexpr std::size_t kTogether = 128;
  // Of the best, those that a sample is meant to catch, and the fewest that say anything; groups for one of a sample.
  static constexpr std::size_t kHits = 128;
  static constexpr std::size_t kFewestHits = 8;
  static constexpr std::size_t kLeastStride = 16;

  void refine(std::uint64_t* keys, std::size_t n) const {
    std::int64_t positions[kTogether];
    std::int32_t products[kTogether];
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t at = position_of(keys[i]);
      LW_PREFETCH(bits_.base + at);
      LW_PREFETCH(bits_.fine_factors + at);
      positions[i] = static_cast<std::int64_t>(at);
    }
    kernels_.dot_of(plan_.fine_bits)(fine_.data(), fine_sum_, bits_.fine, plan_.fine_stride(), positions, n,
                                     fine_.size(), products);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t at = position_of(keys[i]);
      const float product = fine_step_ * static_cast<float>(2 * products[i] + fine_sum_);
      keys[i] = to_key(bits_.base[at] - bits_.fine_factors[at] * product, at);
    }
  }

  // Every stride-th group of a run.
  void run(std::size_t at, std::size_t n, std::size_t stride, Shortlist& list) const {
    std::uint16_t alive[kScreenGroups];
    float estimates[kRun];
    std::size_t n_candidates = allow(store_, request_, at, n, alive);
    if (stride > 1) {
      n_candidates = 0;
      for (std::size_t g = 0; g < n_groups(n); ++g) {
        if ((at / kLanes + g) % stride != 0) alive[g] = 0;
        n_candidates += static_cast<std::size_t>(std::popcount(alive[g]));
      }
    }
    list.stats.candidates += n_candidates;
    list.stats.dimensions += n_candidates * plan_.n_bits;
    const std::size_t n_bytes = plan_.n_bits / 8;
    // Equal estimates go by position, and an earlier one may come later: it is not screened out.
    const float limit = std::nextafter(list.bound, std::numeric_limits<float>::infinity());
    kernels_.screen_bits({bits_.bits + at * n_bytes, bits_.base + at, bits_.factors + at, n_bytes}, n_groups(n),
                         {tables_.data(), total_, step_}, limit, alive, estimates);
    for_each_alive(alive, n_groups(n), [&](std::uint32_t offset) { list.add(estimates[offset], at + offset); });
  }

  const Kernels& kernels_;
  const Store& store_;
  const BitPlan& plan_;
  const Bits& bits_;
  const Request& request_;
  std::vector<std::uint8_t> tables_;
  std::int32_t total_ = 0;
  float step_ = 0.0f;
  std::vector<std::int8_t> fine_;
  std::int32_t fine_sum_ = 0;
  float fine_step_ = 0.0f;
};

struct Plan {
  const Kernels& kernels;
  const Store& store;
  const BitPlan& plan;
  const Bits& bits;
  const Request& request;

  template <class Run>
  std::vector<Query> prepare(std::size_t first, std::size_t n, const Run&) const {
    const std::vector<const float*> from = rows_of(request.queries + first * store.dim, n, store.dim);
    const Projected projected(kernels, plan, from.data(), n);
    std::vector<Query> queries;
    queries.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
      queries.emplace_back(kernels, store, plan, bits, request, projected.y.data() + i * plan.n_bits);
    }
    return queries;
  }

  void scan_tile(const std::vector<Query>& queries, const Range* ranges, std::size_t n_ranges, Shortlist* lists) const {
    for (std::size_t q = 0; q < queries.size(); ++q) queries[q].scan(ranges, n_ranges, lists[q]);
  }
};

// Where the first pass hands its candidates over, to be scored on their rows.
struct Funnel {
  const Kernels& kernels;
  const Store& store;
  const BitPlan& plan;
  const Bits& bits;
  const Request& request;
  const Output& output;

  void take(std::size_t q, std::size_t k, Shortlist& list) const {
    const float* const query = request.queries + q * store.dim;
    // What an estimate lacks of half the distance, or of the distance for products.
    const bool product = store.metric != Metric::kL2;
    const double length2 = centered_norm2(query, plan.center, store.dim);
    const double length = std::sqrt(length2);
    const double scale = product ? 1.0 : 2.0;
    const double one = store.metric == Metric::kCosine ? 1.0 : 0.0;
    const double offset = product ? one - dot(query, plan.center, store.dim) : length2 / 2;
    const std::uint16_t* const errors = plan.fine_bits == 0 ? bits.errors : bits.fine_errors;
    Search search =
        list.settled(kernels, store, request, query, [&](float estimate, std::size_t at, const Search& found) {
          if (request.eps0 == std::numeric_limits<double>::infinity()) return false;
          const double error = static_cast<double>(from_bf16(errors[at])) * length;
          const double lower = scale * (static_cast<double>(estimate) + offset - request.eps0 * error);
          return lower > static_cast<double>(found.best.bound());
        });
    output.take(q, k, search);
  }
};

}  // namespace

bool fill_bits(const Kernels& kernels, const Store& store, const BitPlan& plan, const Bits& bits, std::size_t first,
               std::size_t last, std::size_t n_threads, const Interrupt& interrupt) {
  const std::size_t n_bytes = plan.n_bits / 8;
  const std::size_t n_pieces = (last - first + kRowsTogether - 1) / kRowsTogether;
  return parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    const std::size_t begin = first + piece * kRowsTogether;
    const std::size_t n = std::min(kRowsTogether, last - begin);
    const Gathered gathered(store, begin, n);
    const float* const* const rows = gathered.rows;
    const Projected projected(kernels, plan, rows, n);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t at = begin + i;
      const float* const y = projected.y.data() + i * plan.n_bits;
      std::uint8_t* const group = bits.bits + at / kLanes * kLanes * n_bytes + at % kLanes;
      for (std::size_t j = 0; j < n_bytes; ++j) {
        unsigned byte = 0;
        for (unsigned b = 0; b < 8; ++b) byte |= static_cast<unsigned>(y[8 * j + b] > 0.0f) << b;
        group[j * kLanes] = static_cast<std::uint8_t>(byte);
      }
      if (rows[i] == nullptr) {
        bits.base[at] = std::numeric_limits<float>::infinity();
        bits.factors[at] = 0;
        bits.errors[at] = 0;
        if (plan.fine_bits > 0) {
          std::fill_n(bits.fine + at * plan.fine_stride(), plan.fine_stride(), std::int8_t{0});
          bits.fine_factors[at] = 0;
          bits.fine_errors[at] = 0;
        }
      } else {
        enter(store, plan, bits, at, rows[i], projected.centred.data() + i * plan.dim, y);
      }
    }
  });
}

bool scan_bits(const Kernels& kernels, const Store& store, const BitPlan& plan, const Bits& bits,
               const Request& request, const Output& output, std::size_t n_threads, const Interrupt& interrupt) {
  const Funnel funnel{kernels, store, plan, bits, request, output};
  return search_lists<Shortlist>(store, request, Plan{kernels, store, plan, bits, request}, funnel, n_threads,
                                 interrupt);
}

}  // namespace lw
