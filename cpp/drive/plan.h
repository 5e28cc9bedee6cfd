// Lane plans: which lane scores which candidate, decided from (key, pool) alone.
#pragma once

#include "../kernels.h"
#include "threads.h"

namespace lw {

enum class Scheme { kPermute, kStratified, kOwner };

struct PlanParameters {
  Scheme scheme;
  std::size_t n_lanes;
  std::size_t k_lane;       // candidates per lane, at most
  std::size_t k_dedicated;  // of these, how many no other lane has: round(alpha * k_lane)
  std::size_t head;         // best ranks that a second lane scores too
  // owner: a candidate is shared by all lanes if the second PRF word, as a fraction of 2^64, is below this. A
  // threshold of 2^64 does not fit: share_all says so.
  std::uint64_t share_below;
  bool share_all;
};

enum class PlanOutcome { kPlanned, kInterrupted, kDuplicate };

// For query q: candidates pool[q * k_pool ...] in rank order (-1 is none), key keys[2 * q], keys[2 * q + 1]. Writes
// lanes[(q * n_lanes + r) * k_lane + i], the i-th best rank's id that lane r scores, then -1, and how many there are to
// counts[q * n_lanes + r]. An id that stands twice in one pool is refused: duplicate_query then names the query.
[[nodiscard]] PlanOutcome plan(const Kernels& kernels, const PlanParameters& parameters, const std::int64_t* pool,
                               std::size_t n_queries, std::size_t k_pool, const std::uint64_t* keys,
                               std::int64_t* lanes, std::int32_t* counts, std::size_t* duplicate_query,
                               std::size_t n_threads, const Interrupt& interrupt);

}  // namespace lw
