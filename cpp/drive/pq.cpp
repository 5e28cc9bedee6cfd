#include "pq.h"

#include <cmath>

#include "aligned.h"
#include "float_mode.h"
#include "numbers.h"
#include "pack.h"
#include "runs.h"
#include "shortlist.h"

namespace lw {
namespace {

// Queries that visit lists together; fewer if there are so many lists, or rows in those that they visit, that a tile
// would take too much memory or time.
constexpr std::size_t kQueriesPerTile = 256;
constexpr std::size_t kListsPerTile = 1 << 20;
constexpr std::size_t kRowsPerTile = 1 << 24;

// What a code says of a row's length is taken no farther than this: beyond it, it says nothing.
constexpr double kLargestFactor = 4.0;

// Points that are met together: their sub-vectors stay in the first-level cache while all words pass them.
constexpr std::size_t kPoints = 64;

// The words of one sub-space less their shift, and what a score begins with.
void prepare(const float* words, std::size_t n_words, std::size_t length, const float* shift, float* shifted,
             float* bias) {
  for (std::size_t j = 0; j < n_words; ++j) {
    double norm2 = 0.0;
    for (std::size_t d = 0; d < length; ++d) {
      const float w = words[j * length + d] - shift[d];
      shifted[j * length + d] = w;
      norm2 += static_cast<double>(w) * static_cast<double>(w);
    }
    bias[j] = static_cast<float>(-0.5 * norm2);
  }
}

// Words ready to be met, each sub-space about the mean of its words: a common offset would cost digits.
class Coder {
 public:
  Coder(const Kernels& kernels, const Words& words)
      : kernels_(kernels),
        words_(words),
        shift_(words.dim),
        shifted_(words.dim * words.n_words()),
        bias_(words.n_subspaces * words.n_words()) {
    const std::size_t length = words.length();
    for (std::size_t s = 0; s < words.n_subspaces; ++s) {
      const float* const own = words.words + s * words.n_words() * length;
      mean(own, words.n_words(), length, shift_.data() + s * length);
      prepare(own, words.n_words(), length, shift_.data() + s * length, shifted_.data() + s * words.n_words() * length,
              bias_.data() + s * words.n_words());
    }
  }

  // Codes of n vectors, at most kPoints, on the axes of the words and `stride` floats apart.
  void encode(const float* y, std::size_t n, std::size_t stride, std::uint8_t* codes) const {
    const std::size_t length = words_.length();
    Aligned<float> packed(kPoints * length);
    std::int32_t labels[kPoints];
    float scores[kPoints];
    for (std::size_t s = 0; s < words_.n_subspaces; ++s) {
      pack(
          n, length, [&](std::size_t i) { return y + i * stride + s * length; }, shift_.data() + s * length,
          packed.data());
      kernels_.nearest_words(packed.data(), n_groups(n), length, shifted_.data() + s * words_.n_words() * length,
                             bias_.data() + s * words_.n_words(), words_.n_words(), labels, scores);
      for (std::size_t i = 0; i < n; ++i) codes[i * words_.n_subspaces + s] = static_cast<std::uint8_t>(labels[i]);
    }
  }

 private:
  const Kernels& kernels_;
  const Words& words_;
  std::vector<float> shift_, shifted_, bias_;
};

// Floats of a vector on the axes of the words.
std::size_t axes_stride(const Words& words) {
  return words.panels == nullptr ? words.dim : (words.dim + kLanes - 1) / kLanes * kLanes;
}

// n vectors on the axes of the words, axes_stride apart: themselves, or in `turned`.
const float* on_axes(const Kernels& kernels, const Words& words, const float* x, std::size_t n,
                     std::vector<float>& turned) {
  if (words.panels == nullptr) return x;
  turned.resize(n * axes_stride(words));
  kernels.project(x, n, words.dim, words.panels, axes_stride(words) / kLanes, turned.data());
  return turned.data();
}

// Lloyd's algorithm in one sub-space.
class Trainer {
 public:
  Trainer(const Kernels& kernels, const float* x, std::size_t n, std::size_t stride, std::size_t begin,
          std::size_t length, std::size_t n_words)
      : kernels_(kernels),
        n_(n),
        length_(length),
        n_words_(n_words),
        shift_(length),
        shifted_(n_words * length),
        bias_(n_words),
        rows_(n * length),
        packed_(n_groups(n) * kLanes * length),
        labels_(n_groups(n) * kLanes, -1),
        before_(labels_.size()),
        scores_(labels_.size()),
        sums_(n_words * length),
        counts_(n_words) {
    std::vector<double> sum(length);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t d = 0; d < length; ++d) sum[d] += static_cast<double>(x[i * stride + begin + d]);
    }
    for (std::size_t d = 0; d < length; ++d) shift_[d] = static_cast<float>(sum[d] / static_cast<double>(n));
    for (std::size_t i = 0; i < n; ++i) {
      const float* const part = x + i * stride + begin;
      center_rows(&part, 1, shift_.data(), length, length, rows_.data() + i * length);
    }
    pack(n, length, [&](std::size_t i) { return row(i); }, nullptr, packed_.data());
  }

  // One iteration. Returns false if no label has changed, and the words would not either.
  bool improve(float* words) {
    prepare(words, n_words_, length_, shift_.data(), shifted_.data(), bias_.data());
    labels_.swap(before_);
    kernels_.nearest_words(packed_.data(), n_groups(n_), length_, shifted_.data(), bias_.data(), n_words_,
                           labels_.data(), scores_.data());
    if (labels_ == before_) return false;
    std::fill(counts_.begin(), counts_.end(), std::size_t{0});
    for (std::size_t i = 0; i < n_; ++i) ++counts_[static_cast<std::size_t>(labels_[i])];
    refill();
    add_up();
    for (std::size_t j = 0; j < n_words_; ++j) {
      if (counts_[j] == 0) continue;
      for (std::size_t d = 0; d < length_; ++d) {
        const double mean = sums_[j * length_ + d] / static_cast<double>(counts_[j]);
        words[j * length_ + d] = static_cast<float>(mean + static_cast<double>(shift_[d]));
      }
    }
    return true;
  }

 private:
  const float* row(std::size_t i) const { return rows_.data() + i * length_; }

  // The sum of each word's points, in their order.
  void add_up() {
    std::fill(sums_.begin(), sums_.end(), 0.0);
    switch (length_) {
      case 2:
        return add_rows<2>();
      case 4:
        return add_rows<4>();
      case 8:
        return add_rows<8>();
      case 16:
        return add_rows<16>();
      default:
        return add_rows<0>();
    }
  }

  // L is the length if that is known in advance.
  template <std::size_t L>
  void add_rows() {
    const std::size_t length = L == 0 ? length_ : L;
    for (std::size_t i = 0; i < n_; ++i) {
      double* const sum = sums_.data() + static_cast<std::size_t>(labels_[i]) * length;
      const float* const x = rows_.data() + i * length;
      for (std::size_t d = 0; d < length; ++d) sum[d] += static_cast<double>(x[d]);
    }
  }

  // An empty word takes over the point that is farthest from its own, unless that is its only point.
  void refill() {
    std::vector<std::size_t> empty;
    for (std::size_t j = 0; j < n_words_; ++j) {
      if (counts_[j] == 0) empty.push_back(j);
    }
    if (empty.empty()) return;
    std::vector<Neighbor> farthest(n_);
    for (std::size_t i = 0; i < n_; ++i) {
      double norm2 = 0.0;
      for (std::size_t d = 0; d < length_; ++d) {
        norm2 += static_cast<double>(row(i)[d]) * static_cast<double>(row(i)[d]);
      }
      farthest[i] = {static_cast<float>(2 * static_cast<double>(scores_[i]) - norm2), static_cast<std::int64_t>(i)};
    }
    std::sort(farthest.begin(), farthest.end());
    std::size_t next = 0;
    for (const Neighbor& candidate : farthest) {
      // What lies on its word has nothing to gain from another one.
      if (next == empty.size() || !(candidate.distance < 0)) return;
      std::int32_t& label = labels_[static_cast<std::size_t>(candidate.id)];
      if (counts_[static_cast<std::size_t>(label)] == 1) continue;
      --counts_[static_cast<std::size_t>(label)];
      counts_[empty[next]] = 1;
      label = static_cast<std::int32_t>(empty[next++]);
    }
  }

  const Kernels& kernels_;
  std::size_t n_, length_, n_words_;
  std::vector<float> shift_, shifted_, bias_, rows_;  // rows and packed: the points less the shift
  Aligned<float> packed_;
  std::vector<std::int32_t> labels_, before_;
  std::vector<float> scores_;
  std::vector<double> sums_;
  std::vector<std::size_t> counts_;
};

// The list that a position belongs to; empty ones begin where the next does.
std::size_t list_at(const Store& store, std::size_t position) {
  const std::int64_t* const begin = store.list_begin;
  const auto at = std::upper_bound(begin, begin + store.n_lists, static_cast<std::int64_t>(position));
  return static_cast<std::size_t>(at - begin) - 1;
}

// One query and the lists that it visits. Estimates are of half a squared distance, or of a negated product, less what
// all rows have in common.
struct Query {
  const float* query;
  double common;                // what estimates lack of the distance (or of half of it)
  std::vector<Neighbor> lists;  // the nearest ones, with their part of an estimate
  std::vector<float> products;  // with each word
  std::vector<std::uint8_t> tables;
  std::int32_t total = 0;
  float step = 0.0f;

  // The n_probe best lists by (estimate, number).
  void choose(const std::vector<float>& base, const float* products_of_lists, std::size_t n_probe) {
    const std::size_t n = base.size();
    std::vector<float> estimates(n);
    for (std::size_t c = 0; c < n; ++c) estimates[c] = base[c] - products_of_lists[c];
    // Of at least as many groups as there are lists to choose, the least of each: as many lists are no farther than the
    // farthest of the nearest of those.
    const std::size_t n_least = std::min(3 * n_probe, n);
    std::vector<float> least(estimates.begin(), estimates.begin() + static_cast<std::ptrdiff_t>(n_least));
    for (std::size_t c = n_least; c < n; c += n_least) {
      for (std::size_t g = 0; g < std::min(n_least, n - c); ++g) least[g] = std::min(least[g], estimates[c + g]);
    }
    const auto last = least.begin() + static_cast<std::ptrdiff_t>(n_probe) - 1;
    std::nth_element(least.begin(), last, least.end());
    std::vector<std::uint64_t> keys(n);
    std::size_t m = 0;
    for (std::size_t c = 0; c < n; ++c) {
      keys[m] = c;
      m += estimates[c] <= *last ? 1 : 0;
    }
    for (std::size_t i = 0; i < m; ++i) keys[i] = to_key(estimates[keys[i]], keys[i]);
    std::sort(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(m));
    lists.resize(n_probe);
    for (std::size_t i = 0; i < n_probe; ++i) {
      lists[i] = {estimate_of(keys[i]), static_cast<std::int64_t>(position_of(keys[i]))};
    }
  }

  // Sixteen whole numbers a sub-space, of one step: the least stands for the sub-space's least product.
  void quantise(const ProductPlan& plan) {
    const std::size_t n_subspaces = plan.words.n_subspaces;
    std::vector<float> least(n_subspaces);
    float range = 0.0f;
    double lowest = 0.0;
    for (std::size_t s = 0; s < n_subspaces; ++s) {
      const float* const own = products.data() + s * kLanes;
      float low = own[0];
      float high = own[0];
      for (std::size_t j = 1; j < kLanes; ++j) {
        low = std::min(low, own[j]);
        high = std::max(high, own[j]);
      }
      least[s] = low;
      range = std::max(range, high - low);
      lowest += static_cast<double>(least[s]);
    }
    const float inverse = range > 0.0f ? static_cast<float>(kBitEntry) / range : 0.0f;
    tables.resize(2 * plan.n_bytes() * kLanes);
    for (std::size_t s = 0; s < n_subspaces; ++s) {
      const std::size_t byte = s / 2;
      std::uint8_t* const table = tables.data() + ((byte / 4 * 2 + s % 2) * 4 + byte % 4) * kLanes;
      for (std::size_t j = 0; j < kLanes; ++j) {
        // What came from a damaged file may not be a number here.
        const float entry = (products[s * kLanes + j] - least[s]) * inverse + 0.5f;
        table[j] = static_cast<std::uint8_t>(std::min(std::max(0.0f, entry), static_cast<float>(kBitEntry) + 0.5f));
      }
    }
    // A kernel evaluates step * (2 * entries - total).
    step = range / static_cast<float>(kBitEntry) / 2;
    const double exact = step > 0.0f ? -lowest / static_cast<double>(step) : 0.0;
    total = std::isfinite(exact) ? static_cast<std::int32_t>(std::clamp(std::nearbyint(exact), -1e9, 1e9)) : 0;
  }
};

// Queries together: what they share is read once.
struct Scan {
  const Kernels& kernels;
  const Store& store;
  const PreparedPlan& all;
  const ProductCodes& codes;
  const Request& request;
  const Output& output;
  const ProductPlan& plan = all.plan;

  void tile(std::size_t first, std::size_t n) const {
    const std::size_t dim = store.dim;
    const Words& words = plan.words;
    std::vector<float> centred(n * dim);
    std::vector<float> turned;
    const std::vector<const float*> from = rows_of(request.queries + first * dim, n, dim);
    center_rows(from.data(), n, plan.center, dim, dim, centred.data());
    const float* const z = on_axes(kernels, words, centred.data(), n, turned);
    std::vector<float> padded;
    const float* dense = z;
    if (all.stride != dim) {
      padded.resize(n * dim);
      for (std::size_t q = 0; q < n; ++q) std::copy_n(z + q * all.stride, dim, padded.data() + q * dim);
      dense = padded.data();
    }
    const std::size_t n_panels = n_groups(plan.n_lists);
    std::vector<float> products(n * n_panels * kLanes);
    kernels.project(dense, n, dim, all.centroids.data(), n_panels, products.data());
    std::vector<Query> queries(n);
    std::vector<Shortlist> found(n, Shortlist::of(request));
    std::vector<Visit> visits;
    for (std::size_t q = 0; q < n; ++q) {
      Query& query = queries[q];
      query.query = from[q];
      query.common = store.metric == Metric::kL2 ? dot(centred.data() + q * dim, centred.data() + q * dim, dim) / 2
                                                 : -dot(plan.center, centred.data() + q * dim, dim);
      query.choose(store.metric == Metric::kL2 ? all.half_norms : all.center_dots,
                   products.data() + q * n_panels * kLanes, request.n_probe);
      prepare(query, dense + q * dim);
      // The nearest lists give a bound; the others are visited list by list, by all queries that want them.
      std::size_t i = 0;
      for (; i < query.lists.size() && found[q].stats.candidates < 2 * found[q].size; ++i) {
        scan(query, query.lists[i], found[q]);
      }
      for (; i < query.lists.size(); ++i) visits.push_back({query.lists[i], static_cast<std::uint32_t>(q)});
    }
    for (const Visit& visit : by_list(visits)) scan(queries[visit.query], visit.list, found[visit.query]);
    for (std::size_t q = 0; q < n; ++q) take(first + q, queries[q], found[q]);
  }

 private:
  struct Visit {
    Neighbor list;
    std::uint32_t query;
  };

  // The same in the order of the lists, so that what one query has read the next ones find in the cache.
  std::vector<Visit> by_list(const std::vector<Visit>& visits) const {
    std::vector<std::size_t> place(plan.n_lists + 1);
    for (const Visit& visit : visits) ++place[static_cast<std::size_t>(visit.list.id) + 1];
    for (std::size_t c = 0; c < plan.n_lists; ++c) place[c + 1] += place[c];
    std::vector<Visit> ordered(visits.size());
    for (const Visit& visit : visits) ordered[place[static_cast<std::size_t>(visit.list.id)]++] = visit;
    return ordered;
  }

  void prepare(Query& query, const float* z) const {
    const Words& words = plan.words;
    const std::size_t k = words.n_words();
    query.products.resize(words.n_subspaces * k);
    for (std::size_t s = 0; s < words.n_subspaces; ++s) {
      kernels.project(z + s * words.length(), 1, words.length(), all.words.data() + s * k * words.length(), k / kLanes,
                      query.products.data() + s * k);
    }
    if (words.n_bits == 8) return;
    query.quantise(plan);
    query.products = {};
  }

  void scan(const Query& query, const Neighbor& probe, Shortlist& list) const {
    const float offset = plan.by_residual ? probe.distance : 0.0f;
    const std::int64_t begin = store.list_begin[probe.id];
    const Range range{begin, begin, store.list_size[probe.id]};
    const std::size_t n_bytes = plan.n_bytes();
    for_each_run(&range, 1, [&](std::size_t at, std::size_t n) {
      std::uint16_t alive[kScreenGroups];
      float estimates[kRun];
      const std::size_t n_candidates = allow(store, request, at, n, alive);
      list.stats.candidates += n_candidates;
      list.stats.dimensions += n_candidates * store.dim;
      const BitRows rows{codes.codes + at * n_bytes, codes.base + at, codes.factors + at, n_bytes};
      // Equal estimates go by position, and an earlier one may come later: with what the sum rounds, none is lost.
      const float slack = 0x1p-21f * (std::abs(list.bound) + std::abs(offset));
      const float limit = std::nextafter(list.bound - offset + slack, std::numeric_limits<float>::infinity());
      if (plan.words.n_bits == 4) {
        kernels.screen_bits(rows, n_groups(n), {query.tables.data(), query.total, query.step}, limit, alive, estimates);
      } else {
        kernels.screen_words(rows, n_groups(n), query.products.data(), limit, alive, estimates);
      }
      for_each_alive(alive, n_groups(n), [&](std::uint32_t i) { list.add(estimates[i] + offset, at + i); });
    });
  }

  // What a distance is, if an estimate is all that is known.
  float distance(const Query& query, float part) const {
    const double estimate = query.common + static_cast<double>(part);
    switch (store.metric) {
      case Metric::kL2:
        return static_cast<float>(std::max(0.0, 2 * estimate));
      case Metric::kCosine:
        return static_cast<float>(1 + estimate);
      default:
        return static_cast<float>(estimate);
    }
  }

  // Candidates are scored on their rows, or answered as they are estimated.
  void take(std::size_t q, const Query& query, Shortlist& list) const {
    if (request.rerank == 0) {
      Search search = Search::of(request);
      search.stats = list.stats;
      list.cut();
      for (const std::uint64_t key : list.keys) {
        search.best.push({distance(query, estimate_of(key)), store.id(store.row(position_of(key)))});
      }
      output.take(q, request.k, search);
      return;
    }
    const double even = 1 / std::sqrt(static_cast<double>(store.dim));
    Search search =
        list.settled(kernels, store, request, query.query, [&](float part, std::size_t at, const Search& found) {
          if (request.eps0 == std::numeric_limits<double>::infinity()) return false;
          const auto bound = static_cast<double>(found.best.bound());
          const double estimate = query.common + static_cast<double>(part);
          // A product is off by what the code has besides its row, times the way from the query to the row, of which
          // the bound says how long it may be; or, where it says nothing, to the centroid.
          const double error = request.eps0 * even * static_cast<double>(from_bf16(codes.errors[at]));
          switch (store.metric) {
            case Metric::kL2:
              return 2 * (estimate - error * std::sqrt(bound)) > bound;
            case Metric::kCosine:
              return 1 + estimate - error * std::sqrt(2 * std::max(bound, 0.0)) > bound;
            default: {
              const float* const from =
                  plan.by_residual ? plan.centroids + list_at(store, at) * store.dim : plan.center;
              return estimate - error * std::sqrt(centered_norm2(query.query, from, store.dim)) > bound;
            }
          }
        });
    output.take(q, request.k, search);
  }
};

}  // namespace

PreparedPlan::PreparedPlan(const Kernels& kernels, const ProductPlan& plan_)
    : plan(plan_),
      stride(axes_stride(plan.words)),
      seen(plan.n_lists * stride),
      half_norms(plan.n_lists),
      center_dots(plan.n_lists) {
  const std::size_t dim = plan.words.dim;
  std::vector<float> x(dim);
  std::vector<float> turned;
  for (std::size_t c = 0; c < plan.n_lists; ++c) {
    const float* const centroid = plan.centroids + c * dim;
    float* const own = seen.data() + c * stride;
    center_rows(&centroid, 1, plan.center, dim, dim, x.data());
    std::copy_n(on_axes(kernels, plan.words, x.data(), 1, turned), dim, own);
    half_norms[c] = static_cast<float>(dot(own, own, dim) / 2);
    center_dots[c] = static_cast<float>(-dot(plan.center, centroid, dim));
  }
  centroids.resize(n_groups(plan.n_lists) * kLanes * dim);
  pack(plan.n_lists, dim, [&](std::size_t c) { return seen.data() + c * stride; }, nullptr, centroids.data());
  const std::size_t length = plan.words.length();
  const std::size_t n_words = plan.words.n_subspaces * plan.words.n_words();
  words.resize(n_words * length);
  pack(n_words, length, [&](std::size_t w) { return plan.words.words + w * length; }, nullptr, words.data());
}

bool train_words(const Kernels& kernels, const float* x, std::size_t n, const Words& shape, float* words,
                 std::size_t n_iterations, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const std::size_t length = shape.length();
  const std::size_t n_words = shape.n_words();
  return parallel_for(shape.n_subspaces, n_threads, interrupt, [&](std::size_t s, std::size_t) {
    Trainer trainer(kernels, x, n, shape.dim, s * length, length, n_words);
    for (std::size_t i = 0; i < n_iterations; ++i) {
      if (!trainer.improve(words + s * n_words * length)) return;
    }
  });
}

bool encode(const Kernels& kernels, const Words& words, const float* x, std::size_t n, std::uint8_t* codes,
            std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const Coder coder(kernels, words);
  return parallel_for((n + kPoints - 1) / kPoints, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    const std::size_t first = piece * kPoints;
    const std::size_t count = std::min(kPoints, n - first);
    std::vector<float> turned;
    coder.encode(on_axes(kernels, words, x + first * words.dim, count, turned), count, axes_stride(words),
                 codes + first * words.n_subspaces);
  });
}

bool fill_products(const Kernels& kernels, const Store& store, const PreparedPlan& prepared, const ProductCodes& codes,
                   std::size_t first, std::size_t last, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const ProductPlan& plan = prepared.plan;
  const Words& words = plan.words;
  const std::size_t dim = words.dim;
  const std::size_t length = words.length();
  const std::size_t stride = prepared.stride;
  const std::size_t n_bytes = plan.n_bytes();
  const Coder coder(kernels, words);
  const std::size_t n_pieces = (last - first + kRowsTogether - 1) / kRowsTogether;
  return parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    const std::size_t begin = first + piece * kRowsTogether;
    const std::size_t n = std::min(kRowsTogether, last - begin);
    const Gathered gathered(store, begin, n);
    std::vector<float> residuals(n * dim);
    std::vector<std::size_t> list(n);
    for (std::size_t i = 0; i < n; ++i) {
      list[i] = list_at(store, begin + i);
      const float* const from = plan.by_residual ? plan.centroids + list[i] * dim : plan.center;
      center_rows(gathered.rows + i, 1, from, dim, dim, residuals.data() + i * dim);
    }
    std::vector<float> turned;
    const float* const y = on_axes(kernels, words, residuals.data(), n, turned);
    std::vector<std::uint8_t> coded(n * words.n_subspaces);
    coder.encode(y, n, stride, coded.data());
    std::vector<float> decoded(dim);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t at = begin + i;
      std::uint8_t* const group = codes.codes + at / kLanes * kLanes * n_bytes + at % kLanes;
      const std::uint8_t* const code = coded.data() + i * words.n_subspaces;
      for (std::size_t j = 0; j < n_bytes; ++j) {
        unsigned byte = 0;
        if (words.n_bits == 8) {
          byte = code[j];
        } else {
          if (2 * j < words.n_subspaces) byte = code[2 * j];
          if (2 * j + 1 < words.n_subspaces) byte |= static_cast<unsigned>(code[2 * j + 1]) << 4;
        }
        group[j * kLanes] = static_cast<std::uint8_t>(byte);
      }
      if (gathered.rows[i] == nullptr) {
        codes.base[at] = std::numeric_limits<float>::infinity();
        codes.factors[at] = 0;
        codes.errors[at] = 0;
        continue;
      }
      for (std::size_t s = 0; s < words.n_subspaces; ++s) {
        std::copy_n(words.words + (s * words.n_words() + code[s]) * length, length, decoded.data() + s * length);
      }
      const float* const residual = y + i * stride;
      const double length2 = dot(residual, residual, dim);
      const double product = dot(residual, decoded.data(), dim);
      codes.factors[at] = to_bf16(product > 0 ? std::min(length2 / product, kLargestFactor) : 0.0);
      // With the factor as it is kept, so that the estimate of a product with the row itself is what it says.
      const auto factor = static_cast<double>(from_bf16(codes.factors[at]));
      const double error2 = sum_of(dim, [&](std::size_t d) {
        const double left = static_cast<double>(residual[d]) - factor * static_cast<double>(decoded[d]);
        return left * left;
      });
      codes.errors[at] = to_bf16(std::sqrt(error2), 0xFFFF);
      const float* const from = plan.by_residual ? plan.centroids + list[i] * dim : plan.center;
      const double own = store.metric == Metric::kL2 ? length2 / 2 : -dot(from, residuals.data() + i * dim, dim);
      const double beside =
          plan.by_residual ? factor * dot(prepared.seen.data() + list[i] * stride, decoded.data(), dim) : 0.0;
      codes.base[at] = static_cast<float>(own + beside);
    }
  });
}

bool scan_products(const Kernels& kernels, const Store& store, const PreparedPlan& plan, const ProductCodes& codes,
                   const Request& request, const Output& output, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const Scan scan{kernels, store, plan, codes, request, output};
  const std::size_t n_lists = std::max<std::size_t>(store.n_lists, 1);
  const std::size_t n_rows = store.n_rows / n_lists * request.n_probe + 1;
  const std::size_t n_together = std::min({kQueriesPerTile, kListsPerTile / n_lists, kRowsPerTile / n_rows});
  const std::size_t n_tile =
      std::clamp<std::size_t>(request.n_queries / (2 * n_threads), 1, std::max<std::size_t>(n_together, 1));
  const std::size_t n_tiles = (request.n_queries + n_tile - 1) / n_tile;
  return parallel_for(n_tiles, n_threads, interrupt, [&](std::size_t tile, std::size_t) {
    scan.tile(tile * n_tile, std::min(n_tile, request.n_queries - tile * n_tile));
  });
}

}  // namespace lw
