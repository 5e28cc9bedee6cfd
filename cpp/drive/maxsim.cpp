#include "maxsim.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "pack.h"
#include "rows.h"
#include "topk.h"

namespace lw {
namespace {

constexpr float kLeft = std::numeric_limits<float>::infinity();

// Documents in a piece of work.
constexpr std::size_t kPerPiece = 4;

// Queries that are packed at once: short ones take up to sixteen times their size.
constexpr std::size_t kQueriesTogether = 256;

// Candidates of a query in a wave: those of a wave are held against one bound, so that threads cannot change the work.
constexpr std::size_t kLeastWave = 16;
constexpr std::size_t kMostWave = 1024;

std::size_t panels_of(std::size_t n_tokens) { return (n_tokens + kLanes - 1) / kLanes; }

// A query's tokens in the order in which documents meet them, sixteen to a panel.
class PackedQuery {
 public:
  PackedQuery(const TokenQueries& queries, std::size_t q)
      : tokens_(queries.tokens + static_cast<std::size_t>(queries.begin[q]) * queries.dim),
        lengths_(queries.lengths + queries.begin[q]),
        dim_(queries.dim),
        order_(static_cast<std::size_t>(queries.begin[q + 1] - queries.begin[q])) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    pack_panels();
  }

  std::size_t n_tokens() const { return order_.size(); }
  std::size_t n_panels() const { return panels_of(order_.size()); }

  // The largest products of the document's tokens with those of the panels [first, last), to their places in `largest`.
  void meet(const Kernels& kernels, const Documents& documents, std::size_t document, std::size_t first,
            std::size_t last, float* largest) const {
    const auto begin = static_cast<std::size_t>(documents.begin[document]);
    const auto end = static_cast<std::size_t>(documents.begin[document + 1]);
    float some[kLanes * kPanelsTogether];
    for (std::size_t p = first; p < last; p += kPanelsTogether) {
      const std::size_t m = std::min(kPanelsTogether, last - p);
      kernels.max_dots(documents.tokens + begin * dim_, end - begin, dim_, panels_.data() + p * dim_ * kLanes, m, some);
      for (std::size_t i = p * kLanes; i < std::min((p + m) * kLanes, n_tokens()); ++i) {
        largest[order_[i]] = some[i - p * kLanes];
      }
    }
  }

  float distance(const float* largest) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < n_tokens(); ++i) sum += static_cast<double>(largest[i]);
    return static_cast<float>(0.0 - sum);
  }

  // Tokens whose products stay farthest below what they could be come first: they tell soonest that a document is out.
  // `sums` are of the largest products with some documents, whose longest tokens add up to `longest`.
  void order_by_slack(const std::vector<double>& sums, double longest) {
    std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
      return lengths_[a] * longest - sums[a] > lengths_[b] * longest - sums[b];
    });
    pack_panels();
  }

  // What float32 may make of the tokens from panel p on, for each unit of a document's longest one: Cauchy-Schwarz, and
  // dim roundings, which make at most (1 + u)^dim <= 1 + 2 dim u of it.
  double reach(std::size_t p) const { return reach_[p]; }

  // The same for all tokens together beyond what `reach` counts: numbers that became subnormal, and sums in double.
  double doubt(double longest) const {
    const auto n = static_cast<double>(n_tokens());
    const auto dim = static_cast<double>(dim_);
    return reach_[0] * longest * (n + dim + 16.0) * 0x1p-52 + n * dim * 0x1p-148;
  }

  // Tokens in the first p panels.
  std::size_t n_in(std::size_t p) const { return std::min(p * kLanes, n_tokens()); }

  // The sum of the largest products of the tokens in panel p.
  double sum_in(std::size_t p, const float* largest) const {
    double sum = 0.0;
    for (std::size_t i = n_in(p); i < n_in(p + 1); ++i) sum += static_cast<double>(largest[order_[i]]);
    return sum;
  }

 private:
  static constexpr std::size_t kPanelsTogether = 8;

  void pack_panels() {
    panels_.resize(n_panels() * kLanes * dim_);
    pack(n_tokens(), dim_, [&](std::size_t i) { return tokens_ + order_[i] * dim_; }, nullptr, panels_.data());
    const double grown = 1.0 + 2.0 * static_cast<double>(dim_) * 0x1p-24;
    reach_.assign(n_panels() + 1, 0.0);
    for (std::size_t p = n_panels(); p-- > 0;) {
      reach_[p] = reach_[p + 1];
      for (std::size_t i = n_in(p); i < n_in(p + 1); ++i) reach_[p] += lengths_[order_[i]] * grown;
    }
  }

  const float* tokens_;
  const double* lengths_;
  std::size_t dim_;
  std::vector<std::size_t> order_;
  std::vector<float> panels_;
  std::vector<double> reach_;
};

// What is known of one query's candidates.
struct Search {
  PackedQuery query;
  TopK best;
  std::vector<std::int64_t> candidates;
  std::vector<float> distances;         // of the candidates of a wave, kLeft for those that are out
  std::vector<std::uint64_t> products;  // of the pieces of a wave
  // What the first documents have shown: sums of the largest products of every token, and of their longest tokens.
  std::vector<double> sums;
  double longest = 0.0;
};

// Candidates [begin, end), which begin at `first` in the wave. `largest` is room for the query's tokens.
void score_piece(const Kernels& kernels, const Documents& documents, Search& search, std::size_t begin, std::size_t end,
                 std::size_t first, float* largest) {
  const PackedQuery& query = search.query;
  const float bound = search.best.bound();
  std::uint64_t products = 0;
  for (std::size_t i = begin; i < end; ++i) {
    const auto document = static_cast<std::size_t>(search.candidates[i]);
    const auto n = static_cast<std::uint64_t>(documents.begin[document + 1] - documents.begin[document]);
    const double longest = documents.longest[document];
    float& distance = search.distances[first + i - begin];
    distance = kLeft;
    if (bound == std::numeric_limits<float>::infinity()) {
      query.meet(kernels, documents, document, 0, query.n_panels(), largest);
      products += n * query.n_tokens();
      distance = query.distance(largest);
      if (begin == 0) {
        for (std::size_t t = 0; t < query.n_tokens(); ++t) search.sums[t] += static_cast<double>(largest[t]);
        search.longest += longest;
      }
      continue;
    }
    double most = query.doubt(longest);
    std::size_t p = 0;
    // Rounding is monotonic: if the least that the distance can be is rounded to more than the bound, so is the
    // distance.
    for (; p < query.n_panels(); ++p) {
      if (static_cast<float>(-(most + query.reach(p) * longest)) > bound) break;
      query.meet(kernels, documents, document, p, p + 1, largest);
      products += n * (query.n_in(p + 1) - query.n_in(p));
      most += query.sum_in(p, largest);
    }
    if (p == query.n_panels()) distance = query.distance(largest);
  }
  search.products[first / kPerPiece] = products;
}

// Room for the tokens of the longest query, for each thread.
std::vector<std::vector<float>> token_room(const TokenQueries& queries, std::size_t n_threads) {
  std::int64_t most = 0;
  for (std::size_t q = 0; q < queries.n; ++q) most = std::max(most, queries.begin[q + 1] - queries.begin[q]);
  return std::vector<std::vector<float>>(n_threads, std::vector<float>(static_cast<std::size_t>(most)));
}

}  // namespace

bool score_documents(const Kernels& kernels, const Documents& documents, const TokenQueries& queries,
                     const std::int64_t* ids, std::size_t n_ids, float* distances, std::size_t n_threads,
                     const Interrupt& interrupt) {
  const std::size_t pieces_per_query = (n_ids + kPerPiece - 1) / kPerPiece;
  std::vector<std::vector<float>> rooms = token_room(queries, n_threads);
  for (std::size_t begin = 0; begin < queries.n; begin += kQueriesTogether) {
    const std::size_t n = std::min(kQueriesTogether, queries.n - begin);
    std::vector<std::unique_ptr<PackedQuery>> packed(n);
    if (!parallel_for(n, n_threads, interrupt, [&](std::size_t i, std::size_t) {
          packed[i] = std::make_unique<PackedQuery>(queries, begin + i);
        })) {
      return false;
    }
    if (!parallel_for(n * pieces_per_query, n_threads, interrupt, [&](std::size_t piece, std::size_t worker) {
          const PackedQuery& query = *packed[piece / pieces_per_query];
          const std::size_t row = (begin + piece / pieces_per_query) * n_ids;
          const std::size_t first = piece % pieces_per_query * kPerPiece;
          float* const largest = rooms[worker].data();
          for (std::size_t i = row + first; i < row + std::min(first + kPerPiece, n_ids); ++i) {
            distances[i] = std::numeric_limits<float>::infinity();
            if (ids[i] < 0) continue;
            query.meet(kernels, documents, static_cast<std::size_t>(ids[i]), 0, query.n_panels(), largest);
            distances[i] = query.distance(largest);
          }
        })) {
      return false;
    }
  }
  return true;
}

bool rescore_documents(const Kernels& kernels, const Documents& documents, const TokenQueries& queries,
                       const std::int64_t* ids, std::size_t n_ids, std::size_t k, float* distances, std::int64_t* found,
                       MaxSimStats* stats, std::size_t n_threads, const Interrupt& interrupt) {
  std::vector<std::vector<float>> rooms = token_room(queries, n_threads);
  for (std::size_t first_query = 0; first_query < queries.n; first_query += kQueriesTogether) {
    const std::size_t n_queries = std::min(kQueriesTogether, queries.n - first_query);
    std::vector<std::unique_ptr<Search>> searches(n_queries);
    if (!parallel_for(n_queries, n_threads, interrupt, [&](std::size_t i, std::size_t) {
          const std::size_t q = first_query + i;
          PackedQuery query(queries, q);
          std::vector<double> sums(query.n_tokens());
          searches[i] = std::make_unique<Search>(
              Search{std::move(query), TopK(k), named_once(ids + q * n_ids, n_ids), {}, {}, std::move(sums)});
        })) {
      return false;
    }
    std::size_t most = 0;
    for (const auto& search : searches) most = std::max(most, search->candidates.size());
    // The first wave fills the k places, and each further one is as large as all before it.
    std::size_t wave = std::max(kLeastWave, (k + kPerPiece - 1) / kPerPiece * kPerPiece);
    for (std::size_t begin = 0; begin < most; begin += wave, wave = std::min(begin, kMostWave)) {
      const std::size_t pieces_per_query = (std::min(wave, most - begin) + kPerPiece - 1) / kPerPiece;
      for (const auto& search : searches) {
        search->distances.assign(wave, kLeft);
        search->products.assign(pieces_per_query, 0);
      }
      if (!parallel_for(n_queries * pieces_per_query, n_threads, interrupt, [&](std::size_t piece, std::size_t worker) {
            Search& search = *searches[piece / pieces_per_query];
            const std::size_t first = piece % pieces_per_query * kPerPiece;
            const std::size_t end = std::min(begin + std::min(first + kPerPiece, wave), search.candidates.size());
            if (begin + first >= end) return;
            score_piece(kernels, documents, search, begin + first, end, first, rooms[worker].data());
          })) {
        return false;
      }
      for (std::size_t i = 0; i < n_queries; ++i) {
        Search& search = *searches[i];
        const std::size_t end = std::min(begin + wave, search.candidates.size());
        for (std::size_t c = begin; c < end; ++c) {
          const float distance = search.distances[c - begin];
          if (distance != kLeft) search.best.push({distance, search.candidates[c]});
        }
        for (const std::uint64_t products : search.products) stats[first_query + i].products += products;
        if (begin == 0) search.query.order_by_slack(search.sums, search.longest);
      }
    }
    for (std::size_t i = 0; i < n_queries; ++i) {
      const std::size_t q = first_query + i;
      MaxSimStats& counted = stats[q];
      counted.candidates = searches[i]->candidates.size();
      for (const std::int64_t document : searches[i]->candidates) {
        counted.all += static_cast<std::uint64_t>(documents.begin[document + 1] - documents.begin[document]) *
                       searches[i]->query.n_tokens();
      }
      searches[i]->best.write(distances + q * k, found + q * k);
    }
  }
  return true;
}

}  // namespace lw
