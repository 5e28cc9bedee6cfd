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

// What documents are screened by: their tokens in codes, and what the codes leave of them.
struct Documents : TokenLists {
  TokenCodes codes;         // of all tokens, in quads_of(dim) quads
  const double* longest;    // [n], no token of the document is longer
  const double* residuals;  // [n], nor is what the codes of one leave of it
};

struct MaxSimStats {
  std::uint64_t candidates;  // named, each once
  std::uint64_t products;    // of two tokens that were computed
  std::uint64_t all;         // that there are
};

// Codes have a byte for each dimension, and are filled up to whole quads.
inline std::size_t quads_of(std::size_t dim) { return (dim + 3) / 4; }

// Codes n tokens: x is about scale * codes, off by a vector no longer than its residual. Sums are those of the codes,
// lengths no shorter than the tokens. Returns false if interrupted.
[[nodiscard]] bool code_tokens(const float* tokens, std::size_t n, std::size_t dim, std::int8_t* codes, float* scales,
                               std::int32_t* sums, double* lengths, double* residuals, std::size_t n_threads,
                               const Interrupt& interrupt);

// Distances of n_ids documents to each query: minus the sum over its tokens, in their order and in double, of the
// largest product. An id of -1 gets an infinite distance. Returns false if interrupted.
[[nodiscard]] bool score_documents(const Kernels& kernels, const Documents& documents, const TokenLists& queries,
                                   const std::int64_t* ids, std::size_t n_ids, float* distances, std::size_t n_threads,
                                   const Interrupt& interrupt);

// The k nearest of those documents by the very same distances, best first, then (inf, -1) up to k. A document that is
// named twice counts once; one whose codes rule out that it is among them is never met. Returns false if interrupted.
[[nodiscard]] bool rescore_documents(const Kernels& kernels, const Documents& documents, const TokenLists& queries,
                                     const std::int64_t* ids, std::size_t n_ids, std::size_t k, float* distances,
                                     std::int64_t* found, MaxSimStats* stats, std::size_t n_threads,
                                     const Interrupt& interrupt);

}  // namespace lw
