// Searches in lists of product codes: estimates from the codes of all rows in the probed lists, and exact scores for
// the best.
//
// Estimates are whole-number products of coded words and coded queries, which come out the same whether a row is
// decoded, for many queries that visit its list together, or what its codes add is looked up, for one.
#include <cmath>
#include <memory>

#include "float_mode.h"
#include "numbers.h"
#include "pq.h"
#include "runs.h"
#include "shortlist.h"

namespace lw {
namespace {

// Queries that visit lists together; fewer if there are so many lists, or rows in those that they visit, that a tile
// would take too much time, or if what is kept of a query takes too much memory.
constexpr std::size_t kQueriesTogether = 1024;
constexpr std::size_t kListsPerTile = 1 << 22;
constexpr std::size_t kRowsPerTile = 1 << 24;
constexpr std::size_t kBytesPerTile = 1 << 25;

// Products of queries with centroids, at a time.
constexpr std::size_t kProductsTogether = 1 << 20;

// Rows are decoded if so many queries of a tile are expected at a list.
constexpr std::size_t kWorthDecoding = 4;

// Of decoded rows, at a time.
constexpr std::size_t kDecodedBytes = 1 << 16;

// One query and the lists that it visits. Estimates are of half a squared distance, or of a negated product, less what
// all rows have in common.
struct Query {
  const float* query;
  double common;                // what estimates lack of the distance (or of half of it)
  std::vector<Neighbor> lists;  // the nearest ones, with their part of an estimate
  const std::int8_t* codes;     // [4 * n_quads]
  std::int32_t total = 0;       // what their products with words have too much
  float step = 0.0f;            // of a product

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

  // Codes of a query on the axes of the words; those of places without a coordinate stay zero.
  void quantise(const PreparedPlan& plan, const float* z, std::int8_t* own) {
    codes = own;
    const std::size_t dim = plan.word_steps.size();
    const std::int32_t most = plan.largest_query_code();
    std::vector<float> scaled(dim);
    float largest = 0.0f;
    for (std::size_t d = 0; d < dim; ++d) {
      scaled[d] = z[d] * plan.word_steps[d];
      largest = std::max(largest, std::abs(scaled[d]));
    }
    step = largest / static_cast<float>(most);
    std::int32_t sum = 0;
    for (std::size_t d = 0; d < dim && step > 0.0f; ++d) {
      // One over a small step would be infinite.
      const auto code = static_cast<std::int8_t>(rounded(scaled[d] / step, most));
      own[plan.places[d]] = code;
      sum += code;
    }
    total = kWordZero * sum;
  }
};

// A query at one of its lists.
struct Visit {
  Neighbor list;
  std::uint32_t query;
};

// What each code of four bits adds to the product with a query, as Kernels::screen_nibbles wants it.
class Tables {
 public:
  Tables(const PreparedPlan& plan, const Query& query) : entries_(plan.plan.n_bytes() * 4 * kLanes), step_(query.step) {
    const std::size_t length = plan.plan.words.length();
    const std::size_t coordinates = plan.quads * 4;
    for (std::size_t s = 0; s < 2 * plan.plan.n_bytes(); ++s) {
      const std::size_t byte = s / 2;
      const std::size_t half = s % 2;
      std::int16_t entries[kLanes] = {};
      for (std::size_t i = half * length; i < (half + 1) * length; ++i) {
        const std::uint8_t* const words = plan.nibbles.data() + ((byte / 4 * coordinates + i) * 4 + byte % 4) * kLanes;
        const std::int16_t code = query.codes[byte * coordinates + i];
        for (std::size_t w = 0; w < kLanes; ++w) {
          entries[w] = static_cast<std::int16_t>(entries[w] + code * (words[w] - kWordZero));
        }
      }
      std::int16_t least = entries[0];
      for (std::size_t w = 1; w < kLanes; ++w) least = std::min(least, entries[w]);
      total_ -= least;
      std::uint8_t* const low = entries_.data() + ((byte / 4 * 4 + 2 * half) * 4 + byte % 4) * kLanes;
      for (std::size_t w = 0; w < kLanes; ++w) {
        const auto entry = static_cast<std::uint16_t>(entries[w] - least);
        low[w] = static_cast<std::uint8_t>(entry & 0xFF);
        low[4 * kLanes + w] = static_cast<std::uint8_t>(entry >> 8);
      }
    }
  }

  NibbleQuery view() const { return {entries_.data(), total_, step_}; }

 private:
  Aligned<std::uint8_t> entries_;
  std::int32_t total_ = 0;
  float step_;
};

// Some of the queries that meet at a list, and what they find there.
struct Meeting {
  Aligned<std::int8_t> codes;  // as DecodedQueries, and so are the next three
  std::int32_t totals[kScreenQueries];
  float steps[kScreenQueries];
  float limits[kScreenQueries];
  std::vector<std::uint16_t> alive;
  std::unique_ptr<float[]> estimates;
  std::size_t room = 0;

  void make_room(std::size_t n, std::size_t n_quads, std::size_t n_positions) {
    if (n <= room) return;
    room = n;
    codes.resize((n + kLanes - 1) / kLanes * kLanes * 4 * n_quads);
    alive.resize(n * kScreenGroups);
    estimates = std::make_unique_for_overwrite<float[]>(n * n_positions);
  }
};

// Rows of a list as the coordinates of their words.
class Decoder {
 public:
  Decoder(const Kernels& kernels, const PreparedPlan& plan, const ProductCodes& codes)
      : kernels_(kernels), plan_(plan), codes_(codes) {
    const std::size_t fit = kDecodedBytes / (plan.n_quads * kLanes * sizeof(std::int32_t));
    n_positions_ = std::clamp<std::size_t>(fit / 4 * 4, 4, kScreenGroups) * kLanes;
    // The kernels leave what fills a row's quads up as it is.
    quads_.resize(n_positions_ * plan.n_quads);
  }

  // Positions that are decoded together.
  std::size_t n_positions() const { return n_positions_; }

  DecodedRows decode(std::size_t at, std::size_t n_groups) {
    const std::size_t n_bytes = plan_.plan.n_bytes();
    const std::uint8_t* const codes = codes_.codes + at * n_bytes;
    auto* const quads = reinterpret_cast<std::int8_t*>(quads_.data());
    if (plan_.plan.words.n_bits == 4) {
      kernels_.decode_nibbles(codes, n_groups, n_bytes, plan_.nibbles.data(), plan_.plan.words.length(), plan_.n_quads,
                              quads);
    } else {
      kernels_.decode_bytes(codes, n_groups, n_bytes, plan_.bytes.data(), plan_.quads, plan_.n_quads, quads_.data());
    }
    return {quads, codes_.base + at, codes_.factors + at, plan_.n_quads};
  }

 private:
  const Kernels& kernels_;
  const PreparedPlan& plan_;
  const ProductCodes& codes_;
  std::size_t n_positions_;
  Aligned<std::int32_t> quads_;
};

// Queries together: what they share is read once.
struct Scan {
  const Kernels& kernels;
  const Store& store;
  const PreparedPlan& all;
  const ProductCodes& codes;
  const Request& request;
  const Output& output;
  double allowed_share;  // of the rows, not 0
  const ProductPlan& plan = all.plan;

  void tile(std::size_t first, std::size_t n) const {
    std::vector<Query> queries(n);
    std::vector<Shortlist> found(n, Shortlist::of(request));
    Aligned<std::int8_t> coded(n * 4 * all.n_quads);
    const std::size_t together = std::max<std::size_t>(std::min(kRowsTogether, kProductsTogether / plan.n_lists), 1);
    for (std::size_t q = 0; q < n; q += together) {
      prepare(first + q, std::min(together, n - q), queries.data() + q, coded.data() + q * 4 * all.n_quads);
    }
    // The nearest lists give a bound for all others.
    std::vector<Visit> nearest;
    std::vector<Visit> others;
    for (std::size_t q = 0; q < n; ++q) {
      std::size_t n_rows = 0;
      for (const Neighbor& list : queries[q].lists) {
        const std::int64_t size = store.list_size[list.id];
        if (size == 0) continue;
        (n_rows < enough(found[q]) ? nearest : others).push_back({list, static_cast<std::uint32_t>(q)});
        n_rows += static_cast<std::size_t>(size);
      }
    }
    if (n > 1) {
      order(nearest);
      order(others);
    }
    // A filter leaves few of the rows that would be decoded.
    const bool few = request.allowed != nullptr || n * request.n_probe < kWorthDecoding * plan.n_lists;
    if (few && all.has_tables()) {
      std::vector<Tables> tables;
      tables.reserve(n);
      for (const Query& query : queries) tables.emplace_back(all, query);
      for (const std::vector<Visit>* visits : {&nearest, &others}) look_up(*visits, tables, found);
    } else {
      Decoder decoder(kernels, all, codes);
      Meeting meeting;
      for (const std::vector<Visit>* visits : {&nearest, &others}) decode(*visits, queries, decoder, meeting, found);
    }
    for (std::size_t q = 0; q < n; ++q) take(first + q, queries[q], found[q]);
  }

 private:
  // Rows of the nearest lists that are likely to hold twice the candidates that are wanted.
  std::size_t enough(const Shortlist& list) const {
    return static_cast<std::size_t>(static_cast<double>(2 * list.size) / allowed_share);
  }

  // Chooses the lists of n queries from `first` on, and codes them.
  void prepare(std::size_t first, std::size_t n, Query* queries, std::int8_t* coded) const {
    const std::size_t dim = store.dim;
    std::vector<float> centred(n * dim);
    std::vector<float> turned;
    const std::vector<const float*> from = rows_of(request.queries + first * dim, n, dim);
    center_rows(from.data(), n, plan.center, dim, dim, centred.data());
    const float* const z = plan.words.on_axes(kernels, centred.data(), n, turned);
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
    for (std::size_t q = 0; q < n; ++q) {
      Query& query = queries[q];
      query.query = from[q];
      query.common = store.metric == Metric::kL2 ? dot(centred.data() + q * dim, centred.data() + q * dim, dim) / 2
                                                 : -dot(plan.center, centred.data() + q * dim, dim);
      query.choose(store.metric == Metric::kL2 ? all.half_norms : all.center_dots,
                   products.data() + q * n_panels * kLanes, request.n_probe);
      query.quantise(all, dense + q * dim, coded + q * 4 * all.n_quads);
    }
  }

  // By list, so that what one query has read the next ones find in the cache.
  void order(std::vector<Visit>& visits) const {
    std::vector<std::size_t> place(plan.n_lists + 1);
    for (const Visit& visit : visits) ++place[static_cast<std::size_t>(visit.list.id) + 1];
    for (std::size_t c = 0; c < plan.n_lists; ++c) place[c + 1] += place[c];
    std::vector<Visit> ordered(visits.size());
    for (const Visit& visit : visits) ordered[place[static_cast<std::size_t>(visit.list.id)]++] = visit;
    visits.swap(ordered);
  }

  float offset_of(const Visit& visit) const { return plan.by_residual ? visit.list.distance : 0.0f; }

  // What kernels are asked for: estimates that may be among the best.
  float limit_of(const Visit& visit, const Shortlist& list) const {
    const float offset = offset_of(visit);
    // Equal estimates go by position, and an earlier one may come later: with what the sum rounds, none is lost.
    const float slack = 0x1p-21f * (std::abs(list.bound) + std::abs(offset));
    return std::nextafter(list.bound - offset + slack, std::numeric_limits<float>::infinity());
  }

  // Enters what a kernel left of the positions from `at` on.
  template <class Estimate>
  void enter(const Visit& visit, std::size_t at, const std::uint16_t* alive, std::size_t groups,
             std::size_t n_candidates, const Estimate& estimate, Shortlist& list) const {
    list.stats.candidates += n_candidates;
    list.stats.dimensions += n_candidates * store.dim;
    const float offset = offset_of(visit);
    for_each_alive(alive, groups, [&](std::uint32_t i) { list.add(estimate(i) + offset, at + i); });
  }

  // Every query for itself.
  void look_up(const std::vector<Visit>& visits, const std::vector<Tables>& tables,
               std::vector<Shortlist>& found) const {
    const std::size_t n_bytes = plan.n_bytes();
    for (const Visit& visit : visits) {
      Shortlist& list = found[visit.query];
      const std::int64_t begin = store.list_begin[visit.list.id];
      const Range range{begin, begin, store.list_size[visit.list.id]};
      for_each_run(&range, 1, [&](std::size_t at, std::size_t n) {
        std::uint16_t alive[kScreenGroups];
        float estimates[kRun];
        const std::size_t n_candidates = allow(store, request, at, n, alive);
        const BitRows rows{codes.codes + at * n_bytes, codes.base + at, codes.factors + at, n_bytes};
        kernels.screen_nibbles(rows, n_groups(n), tables[visit.query].view(), limit_of(visit, list), alive, estimates);
        enter(visit, at, alive, n_groups(n), n_candidates, [&](std::uint32_t i) { return estimates[i]; }, list);
      });
    }
  }

  // All that visit a list together.
  void decode(const std::vector<Visit>& visits, const std::vector<Query>& queries, Decoder& decoder, Meeting& meeting,
              std::vector<Shortlist>& found) const {
    for (std::size_t i = 0; i < visits.size();) {
      std::size_t end = i + 1;
      while (end < visits.size() && visits[end].list.id == visits[i].list.id) ++end;
      meet(visits.data() + i, end - i, queries, decoder, meeting, found);
      i = end;
    }
  }

  void meet(const Visit* visits, std::size_t n_visits, const std::vector<Query>& queries, Decoder& decoder,
            Meeting& meeting, std::vector<Shortlist>& found) const {
    const auto begin = static_cast<std::size_t>(store.list_begin[visits->list.id]);
    const auto size = static_cast<std::size_t>(store.list_size[visits->list.id]);
    const std::size_t stride = 4 * all.n_quads;
    meeting.make_room(std::min(n_visits, kScreenQueries), all.n_quads, decoder.n_positions());
    for (std::size_t done = 0; done < size; done += decoder.n_positions()) {
      const std::size_t at = begin + done;
      const std::size_t n_positions = std::min(decoder.n_positions(), size - done);
      const std::size_t groups = n_groups(n_positions);
      std::uint16_t allowed[kScreenGroups];
      const std::size_t n_candidates = allow(store, request, at, n_positions, allowed);
      if (n_candidates == 0) continue;
      const DecodedRows rows = decoder.decode(at, groups);
      for (std::size_t first = 0; first < n_visits; first += kScreenQueries) {
        const std::size_t n = std::min(kScreenQueries, n_visits - first);
        for (std::size_t i = 0; i < n; ++i) {
          const Visit& visit = visits[first + i];
          const Query& query = queries[visit.query];
          std::copy_n(query.codes, stride, meeting.codes.data() + i * stride);
          meeting.totals[i] = query.total;
          meeting.steps[i] = query.step;
          meeting.limits[i] = limit_of(visit, found[visit.query]);
          std::copy_n(allowed, groups, meeting.alive.data() + i * kScreenGroups);
        }
        kernels.screen_decoded(rows, groups, {meeting.codes.data(), meeting.totals, meeting.steps, meeting.limits}, n,
                               meeting.alive.data(), meeting.estimates.get());
        for (std::size_t i = 0; i < n; ++i) {
          const Visit& visit = visits[first + i];
          const float* const own = meeting.estimates.get() + i * kLanes;
          const auto estimate = [&](std::uint32_t c) { return own[c / kLanes * n * kLanes + c % kLanes]; };
          enter(visit, at, meeting.alive.data() + i * kScreenGroups, groups, n_candidates, estimate,
                found[visit.query]);
        }
      }
    }
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
              const float* const from = plan.by_residual ? plan.centroids + store.list_at(at) * store.dim : plan.center;
              return estimate - error * std::sqrt(centered_norm2(query.query, from, store.dim)) > bound;
            }
          }
        });
    output.take(q, request.k, search);
  }
};

// The share of the rows that a request allows; of no rows, as if it were one.
double allowed_share(const Store& store, const Request& request) {
  if (request.allowed == nullptr) return 1.0;
  std::size_t n = 0;
  for (std::size_t i = 0; i < (store.n_rows + 63) / 64; ++i) {
    n += static_cast<std::size_t>(std::popcount(request.allowed[i]));
  }
  return static_cast<double>(std::max<std::size_t>(n, 1)) / static_cast<double>(std::max<std::size_t>(store.n_rows, 1));
}

}  // namespace

bool scan_products(const Kernels& kernels, const Store& store, const PreparedPlan& plan, const ProductCodes& codes,
                   const Request& request, const Output& output, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const Scan scan{kernels, store, plan, codes, request, output, allowed_share(store, request)};
  const std::size_t n_lists = std::max<std::size_t>(store.n_lists, 1);
  const std::size_t n_rows = (store.n_rows / n_lists + kLanes) * request.n_probe;
  const std::size_t n_bytes = 4 * plan.n_quads + 4 * kLanes * plan.plan.n_bytes() +
                              2 * sizeof(std::uint64_t) * std::max(request.rerank, request.k) +
                              (sizeof(Neighbor) + 2 * sizeof(Visit)) * request.n_probe;
  const std::size_t n_together =
      std::min({kQueriesTogether, kListsPerTile / n_lists, kRowsPerTile / n_rows, kBytesPerTile / n_bytes});
  // More tiles than threads, for those that are done early.
  const std::size_t n_least = n_threads == 1 ? 1 : 2 * n_threads;
  const std::size_t n_tile =
      std::clamp<std::size_t>(request.n_queries / n_least, 1, std::max<std::size_t>(n_together, 1));
  const std::size_t n_tiles = (request.n_queries + n_tile - 1) / n_tile;
  return parallel_for(n_tiles, n_threads, interrupt, [&](std::size_t tile, std::size_t) {
    scan.tile(tile * n_tile, std::min(n_tile, request.n_queries - tile * n_tile));
  });
}

}  // namespace lw
