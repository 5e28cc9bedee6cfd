// Late interaction: each token of a query meets all tokens of a document, and its largest product counts (MaxSim;
// Khattab & Zaharia 2020).
#pragma once

#include "../kernels.h"
#include "threads.h"

namespace lw {

// Tokens of documents, or of queries: those of number i are [begin[i], begin[i + 1]), at least one.
struct TokenLists {
  std::size_t dim;
  std::size_t n;
  const float* tokens;
  const std::int64_t* begin;  // [n + 1]
};

struct Documents : TokenLists {
  const double* longest;  // [n], no token of the document is longer
};

struct TokenQueries : TokenLists {
  const double* lengths;  // of every token
};

struct MaxSimStats {
  std::uint64_t candidates;  // named, each once
  std::uint64_t products;    // of two tokens that were computed
  std::uint64_t all;         // that there are
};

// Distances of n_ids documents to each query: minus the sum over its tokens, in their order and in double, of the
// largest product. An id of -1 gets an infinite distance. Returns false if interrupted.
[[nodiscard]] bool score_documents(const Kernels& kernels, const Documents& documents, const TokenQueries& queries,
                                   const std::int64_t* ids, std::size_t n_ids, float* distances, std::size_t n_threads,
                                   const Interrupt& interrupt);

// The k nearest of those documents by the very same distances, best first, then (inf, -1) up to k. A document that is
// named twice counts once; one whose distance is certain to exceed the k-th best is left half-way. Returns false if
// interrupted.
[[nodiscard]] bool rescore_documents(const Kernels& kernels, const Documents& documents, const TokenQueries& queries,
                                     const std::int64_t* ids, std::size_t n_ids, std::size_t k, float* distances,
                                     std::int64_t* found, MaxSimStats* stats, std::size_t n_threads,
                                     const Interrupt& interrupt);

}  // namespace lw
