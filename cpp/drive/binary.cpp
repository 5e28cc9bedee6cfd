#include "binary.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "numbers.h"
#include "runs.h"
#include "search.h"
#include "shortlist.h"

namespace lw {
namespace {

// |code| of a query: four of them are an entry of a table.
constexpr double kLargestCode = static_cast<double>(kBitEntry) / 4;

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

// Enters row x, which is `centred` and y, as position `at`.
void enter(const Store& store, const BitPlan& plan, const Bits& bits, std::size_t at, const float* x,
           const float* centred, const float* y) {
  const double length2 = dot(centred, centred, plan.dim);
  const double inside2 = dot(y, y, plan.n_bits);
  double sum = 0.0;
  for (std::size_t d = 0; d < plan.n_bits; ++d) sum += std::abs(static_cast<double>(y[d]));
  const auto m = static_cast<double>(plan.n_bits);
  const double factor = sum > 0 ? inside2 / sum : 0.0;
  // |y| sqrt((1 - <o, s>^2) / <o, s>^2 / (m - 1)) with the unit vectors o and s along y and its signs.
  const double bits2 = std::max(factor * factor * m - inside2, 0.0) / (m - 1);
  const double outside2 = std::max(length2 - inside2, 0.0) * plan.outside;
  bits.base[at] = static_cast<float>(store.metric == Metric::kL2
                                         ? length2 / 2
                                         : dot(plan.center, plan.center, plan.dim) - dot(plan.center, x, plan.dim));
  bits.factors[at] = to_bf16(factor);
  bits.errors[at] = to_bf16(std::sqrt(bits2 + outside2), 0xFFFF);
}

// One query, ready to meet bits.
class Query {
 public:
  Query(const Kernels& kernels, const Store& store, const BitPlan& plan, const Bits& bits, const Request& request,
        const float* z)
      : kernels_(kernels), store_(store), plan_(plan), bits_(bits), request_(request), tables_(4 * plan.n_bits) {
    double largest = 0.0;
    for (std::size_t d = 0; d < plan.n_bits; ++d) largest = std::max(largest, std::abs(static_cast<double>(z[d])));
    step_ = static_cast<float>(largest / kLargestCode);
    for (std::size_t d = 0; d < plan.n_bits; d += 4) {
      int code[4];
      for (std::size_t i = 0; i < 4; ++i) {
        const double nearest =
            step_ > 0 ? std::nearbyint(static_cast<double>(z[d + i]) / static_cast<double>(step_)) : 0.0;
        code[i] = static_cast<int>(std::clamp(nearest, -kLargestCode, kLargestCode));
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
  }

  void scan(const Range* ranges, std::size_t n_ranges, Shortlist& list) const {
    for_each_run(ranges, n_ranges, [&](std::size_t at, std::size_t n) { run(at, n, list); });
  }

 private:
  void run(std::size_t at, std::size_t n, Shortlist& list) const {
    std::uint16_t alive[kScreenGroups];
    float estimates[kRun];
    const std::size_t n_candidates = allow(store_, request_, at, n, alive);
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
    Search search =
        list.settled(kernels, store, request, query, [&](float estimate, std::size_t at, const Search& found) {
          if (request.eps0 == std::numeric_limits<double>::infinity()) return false;
          const double error = static_cast<double>(from_bf16(bits.errors[at])) * length;
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
