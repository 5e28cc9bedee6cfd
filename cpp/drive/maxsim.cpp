#include "maxsim.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "pack.h"
#include "rows.h"
#include "topk.h"

namespace lw {
namespace {

// Documents in a piece of work.
constexpr std::size_t kPerPiece = 4;
constexpr std::size_t kScreenedPerPiece = 16;
constexpr std::size_t kCodedPerPiece = 1024;

// Queries that are packed at once: short ones take up to sixteen times their size.
constexpr std::size_t kQueriesTogether = 256;

// Candidates of a query in a wave: those of a wave are held against one bound, so that threads cannot change the work.
constexpr std::size_t kMostWave = 1024;

constexpr std::size_t kPanelsTogether = 8;

// A little more than any error of a few operations in double: what is computed in double becomes a bound by it.
constexpr double kUp = 1.0 + 0x1p-40;

std::size_t size_of(const TokenLists& lists, std::size_t i) {
  return static_cast<std::size_t>(lists.begin[i + 1] - lists.begin[i]);
}

const float* tokens_of(const TokenLists& lists, std::size_t i) {
  return lists.tokens + static_cast<std::size_t>(lists.begin[i]) * lists.dim;
}

struct TokenFacts {
  float scale;
  std::int32_t sum;
  double length;
  double residual;
};

// Codes go where code(d) says.
template <class Code>
TokenFacts code_token(const float* x, std::size_t dim, const Code& code) {
  float largest = 0.0f;
  for (std::size_t d = 0; d < dim; ++d) largest = std::max(largest, std::abs(x[d]));
  TokenFacts facts{largest / 127.0f, 0, 0.0, 0.0};
  const double steps = facts.scale > 0.0f ? 1.0 / static_cast<double>(facts.scale) : 0.0;
  for (std::size_t d = 0; d < dim; ++d) {
    const auto value = static_cast<double>(x[d]);
    // To the nearest: half a step more, and what is behind the point is cut off.
    const auto rounded = static_cast<std::int32_t>(value * steps + (value < 0.0 ? -0.5 : 0.5));
    const std::int32_t c = std::clamp<std::int32_t>(rounded, -127, 127);
    code(d) = static_cast<std::int8_t>(c);
    facts.sum += c;
    const double rest = value - static_cast<double>(facts.scale) * c;
    facts.length += value * value;
    facts.residual += rest * rest;
  }
  const double up = 1.0 + static_cast<double>(dim + 16) * 0x1p-52;
  facts.length = std::sqrt(facts.length) * up;
  facts.residual = std::sqrt(facts.residual) * up;
  return facts;
}

// A query's tokens as documents meet them, sixteen to a panel.
class PackedQuery {
 public:
  PackedQuery(const TokenLists& queries, std::size_t q) : n_tokens_(size_of(queries, q)), dim_(queries.dim) {
    const float* const tokens = tokens_of(queries, q);
    panels_.resize(n_panels() * kLanes * dim_);
    pack(n_tokens_, dim_, [&](std::size_t i) { return tokens + i * dim_; }, nullptr, panels_.data());
  }

  std::size_t n_tokens() const { return n_tokens_; }

  // The distance of a document, met whole.
  float distance(const Kernels& kernels, const Documents& documents, std::size_t document) const {
    double sum = 0.0;
    const float* const tokens = tokens_of(documents, document);
    for_each_largest(
        [&](std::size_t p, std::size_t m, float* largest) {
          kernels.max_dots(tokens, size_of(documents, document), dim_, panels_.data() + p * dim_ * kLanes, m, largest);
        },
        [&](std::size_t, float largest) { sum += static_cast<double>(largest); });
    return static_cast<float>(0.0 - sum);
  }

 protected:
  std::size_t n_panels() const { return (n_tokens_ + kLanes - 1) / kLanes; }

  // meet(panel, n, largest) for some panels at a time, then take(i, largest) for each token, in order.
  template <class Meet, class Take>
  void for_each_largest(const Meet& meet, const Take& take) const {
    float largest[kLanes * kPanelsTogether];
    for (std::size_t p = 0; p < n_panels(); p += kPanelsTogether) {
      const std::size_t m = std::min(kPanelsTogether, n_panels() - p);
      meet(p, m, largest);
      for (std::size_t i = p * kLanes; i < std::min((p + m) * kLanes, n_tokens_); ++i) take(i, largest[i - p * kLanes]);
    }
  }

  std::size_t n_tokens_;
  std::size_t dim_;
  std::vector<float> panels_;
};

// With codes, which bound a document's distance.
//
// For a query token q, coded as s c and off by e, and a document's token x, coded as s' c' and off by r,
//   <q, x> = s s' <c, c'> + <q - s c, x> + <s c, x - s' c'> <= s s' <c, c'> + e |x| + (|q| + e) r.
// What max_dots makes of it in float32 is larger by at most dim roundings, (1 + u)^dim <= 1 + 2 dim u, of |q| |x|; the
// scaling of <c, c'> to float32 takes two more, and numbers that become subnormal add at most 2^-149 for each
// operation.
class CodedQuery : public PackedQuery {
 public:
  CodedQuery(const TokenLists& queries, std::size_t q)
      : PackedQuery(queries, q),
        n_quads_(quads_of(dim_)),
        codes_(n_panels() * n_quads_ * kLanes * 4),
        scales_(n_tokens_) {
    const float* const tokens = tokens_of(queries, q);
    for (std::size_t i = 0; i < n_tokens_; ++i) {
      std::int8_t* const member = codes_.data() + (i / kLanes * n_quads_ * kLanes + i % kLanes) * 4;
      const TokenFacts facts = code_token(
          tokens + i * dim_, dim_, [&](std::size_t d) -> std::int8_t& { return member[d / 4 * kLanes * 4 + d % 4]; });
      scales_[i] = static_cast<double>(facts.scale);
      sum_of_residuals_ += facts.residual;
      sum_of_lengths_ += facts.length + facts.residual;
      sum_of_scales_ += static_cast<double>(facts.scale);
    }
  }

  // The least that the distance of a document can be.
  float least_distance(const Kernels& kernels, const Documents& documents, std::size_t document) const {
    const auto first = static_cast<std::size_t>(documents.begin[document]);
    const TokenCodes rows{documents.codes.codes + first * n_quads_ * 4, documents.codes.scales + first,
                          documents.codes.sums + first};
    double sum = 0.0;
    for_each_largest(
        [&](std::size_t p, std::size_t m, float* largest) {
          kernels.max_code_dots(rows, size_of(documents, document), n_quads_, codes_.data() + p * n_quads_ * kLanes * 4,
                                m, largest);
        },
        [&](std::size_t i, float largest) { sum += scales_[i] * static_cast<double>(largest); });
    const double longest = documents.longest[document];
    const double residual = documents.residuals[document];
    const auto n = static_cast<double>(n_tokens_);
    const auto dim = static_cast<double>(dim_);
    // Sums in double are off by n 2^-52 of the products' size.
    const double roundings = (2.0 * dim + 4.0) * 0x1p-24 + (n + 16.0) * 0x1p-50;
    const double doubt = sum_of_residuals_ * longest + sum_of_lengths_ * residual +
                         roundings * sum_of_lengths_ * (longest + residual) + (n * dim + sum_of_scales_) * 0x1p-148;
    // Rounding is monotonic, so that a distance is no less than its bound in float32 either. Whatever a file says of
    // codes and lengths, this is a number.
    const double least = -(sum + doubt * kUp);
    constexpr auto lowest = static_cast<double>(std::numeric_limits<float>::lowest());
    return least > lowest ? static_cast<float>(least) : -std::numeric_limits<float>::infinity();
  }

 private:
  std::size_t n_quads_;
  std::vector<std::int8_t> codes_;
  std::vector<double> scales_;
  double sum_of_residuals_ = 0.0;
  double sum_of_lengths_ = 0.0;  // and residuals
  double sum_of_scales_ = 0.0;
};

// What is known of one query's candidates.
struct Search {
  CodedQuery query;
  TopK best;
  std::vector<std::int64_t> candidates;
  std::vector<float> least;      // the least that each distance can be, -inf where nobody knows
  std::vector<float> distances;  // of a wave

  // The most promising first, equal ones in the caller's order.
  void sort_candidates() {
    std::vector<std::size_t> order(candidates.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return least[a] < least[b]; });
    std::vector<std::int64_t> sorted_candidates;
    std::vector<float> sorted_least;
    for (const std::size_t i : order) {
      sorted_candidates.push_back(candidates[i]);
      sorted_least.push_back(least[i]);
    }
    candidates = std::move(sorted_candidates);
    least = std::move(sorted_least);
  }

  // The end of the candidates that may still be among the nearest: for an equal distance the smaller id decides.
  std::size_t end() const {
    const auto out = std::upper_bound(least.begin(), least.end(), best.bound());
    return static_cast<std::size_t>(out - least.begin());
  }
};

}  // namespace

bool code_tokens(const float* tokens, std::size_t n, std::size_t dim, std::int8_t* codes, float* scales,
                 std::int32_t* sums, double* lengths, double* residuals, std::size_t n_threads,
                 const Interrupt& interrupt) {
  const std::size_t stride = 4 * quads_of(dim);
  const std::size_t n_pieces = (n + kCodedPerPiece - 1) / kCodedPerPiece;
  return parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    for (std::size_t i = piece * kCodedPerPiece; i < std::min(n, (piece + 1) * kCodedPerPiece); ++i) {
      std::int8_t* const code = codes + i * stride;
      const TokenFacts facts =
          code_token(tokens + i * dim, dim, [&](std::size_t d) -> std::int8_t& { return code[d]; });
      std::fill(code + dim, code + stride, std::int8_t{0});
      scales[i] = facts.scale;
      sums[i] = facts.sum;
      lengths[i] = facts.length;
      residuals[i] = facts.residual;
    }
  });
}

bool score_documents(const Kernels& kernels, const Documents& documents, const TokenLists& queries,
                     const std::int64_t* ids, std::size_t n_ids, float* distances, std::size_t n_threads,
                     const Interrupt& interrupt) {
  const std::size_t pieces_per_query = (n_ids + kPerPiece - 1) / kPerPiece;
  for (std::size_t begin = 0; begin < queries.n; begin += kQueriesTogether) {
    const std::size_t n = std::min(kQueriesTogether, queries.n - begin);
    std::vector<std::unique_ptr<PackedQuery>> packed(n);
    if (!parallel_for(n, n_threads, interrupt, [&](std::size_t i, std::size_t) {
          packed[i] = std::make_unique<PackedQuery>(queries, begin + i);
        })) {
      return false;
    }
    if (!parallel_for(n * pieces_per_query, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
          const std::size_t row = (begin + piece / pieces_per_query) * n_ids;
          const std::size_t first = piece % pieces_per_query * kPerPiece;
          for (std::size_t i = row + first; i < row + std::min(first + kPerPiece, n_ids); ++i) {
            distances[i] = ids[i] < 0 ? std::numeric_limits<float>::infinity()
                                      : packed[piece / pieces_per_query]->distance(kernels, documents,
                                                                                   static_cast<std::size_t>(ids[i]));
          }
        })) {
      return false;
    }
  }
  return true;
}

bool rescore_documents(const Kernels& kernels, const Documents& documents, const TokenLists& queries,
                       const std::int64_t* ids, std::size_t n_ids, std::size_t k, float* distances, std::int64_t* found,
                       MaxSimStats* stats, std::size_t n_threads, const Interrupt& interrupt) {
  for (std::size_t first_query = 0; first_query < queries.n; first_query += kQueriesTogether) {
    const std::size_t n_queries = std::min(kQueriesTogether, queries.n - first_query);
    std::vector<std::unique_ptr<Search>> searches(n_queries);
    if (!parallel_for(n_queries, n_threads, interrupt, [&](std::size_t i, std::size_t) {
          const std::size_t q = first_query + i;
          std::vector<std::int64_t> candidates = named_once(ids + q * n_ids, n_ids);
          std::vector<float> least(candidates.size(), -std::numeric_limits<float>::infinity());
          searches[i] = std::make_unique<Search>(
              Search{CodedQuery(queries, q), TopK(k), std::move(candidates), std::move(least), {}});
        })) {
      return false;
    }

    // Where all are among the k nearest nobody needs bounds.
    const std::size_t screens_per_query = n_ids > k ? (n_ids + kScreenedPerPiece - 1) / kScreenedPerPiece : 0;
    if (!parallel_for(n_queries * screens_per_query, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
          Search& search = *searches[piece / screens_per_query];
          const std::size_t n = search.candidates.size();
          const std::size_t begin = piece % screens_per_query * kScreenedPerPiece;
          for (std::size_t c = begin; c < std::min(begin + kScreenedPerPiece, n) && n > k; ++c) {
            search.least[c] =
                search.query.least_distance(kernels, documents, static_cast<std::size_t>(search.candidates[c]));
          }
        })) {
      return false;
    }
    if (!parallel_for(n_queries, n_threads, interrupt,
                      [&](std::size_t i, std::size_t) { searches[i]->sort_candidates(); })) {
      return false;
    }

    // The first wave fills the k places, and each further one is as large as all before it.
    std::size_t wave = (k + kPerPiece - 1) / kPerPiece * kPerPiece;
    for (std::size_t begin = 0;; begin += wave, wave = std::min(begin, kMostWave)) {
      std::size_t longest = 0;
      for (const auto& search : searches) {
        const std::size_t end = std::min(search->end(), begin + wave);
        search->distances.resize(end > begin ? end - begin : 0);
        longest = std::max(longest, search->distances.size());
      }
      if (longest == 0) break;
      const std::size_t pieces_per_query = (longest + kPerPiece - 1) / kPerPiece;
      if (!parallel_for(n_queries * pieces_per_query, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
            Search& search = *searches[piece / pieces_per_query];
            const std::size_t first = piece % pieces_per_query * kPerPiece;
            for (std::size_t c = first; c < std::min(first + kPerPiece, search.distances.size()); ++c) {
              search.distances[c] =
                  search.query.distance(kernels, documents, static_cast<std::size_t>(search.candidates[begin + c]));
            }
          })) {
        return false;
      }
      for (std::size_t i = 0; i < n_queries; ++i) {
        Search& search = *searches[i];
        for (std::size_t c = 0; c < search.distances.size(); ++c) {
          const std::int64_t document = search.candidates[begin + c];
          search.best.push({search.distances[c], document});
          stats[first_query + i].products +=
              size_of(documents, static_cast<std::size_t>(document)) * search.query.n_tokens();
        }
      }
    }

    for (std::size_t i = 0; i < n_queries; ++i) {
      const std::size_t q = first_query + i;
      stats[q].candidates = searches[i]->candidates.size();
      for (const std::int64_t document : searches[i]->candidates) {
        stats[q].all += size_of(documents, static_cast<std::size_t>(document)) * searches[i]->query.n_tokens();
      }
      searches[i]->best.write(distances + q * k, found + q * k);
    }
  }
  return true;
}

}  // namespace lw
