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

// Ids that the threefry kernel takes at a time.
inline constexpr std::size_t kCountersTogether = 8;

// `owner` for one candidate after another: no pool, no order and no other candidate is asked.
struct Ownership {
  static constexpr std::size_t kEverybody = ~std::size_t{0};

  std::size_t n_lanes;
  std::uint64_t share_below;  // as in PlanParameters
  bool share_all;

  // Both words of n ids under a key. All three arrays have room for n rounded up to kCountersTogether.
  void draw(const Kernels& kernels, const std::uint64_t* key, const std::uint64_t* ids, std::size_t n,
            std::uint64_t* word0, std::uint64_t* word1) const;
  // The lane that those words mean.
  std::size_t lane(std::uint64_t word0, std::uint64_t word1) const;
};

// The lane of each of n ids under a key; -1 where it is everybody's, or where the id is -1.
void owners_of(const Kernels& kernels, const Ownership& owner, const std::uint64_t* key, const std::int64_t* ids,
               std::size_t n, std::int32_t* lanes);

enum class PlanOutcome { kPlanned, kInterrupted, kDuplicate };

// For query q: candidates pool[q * k_pool ...] in rank order (-1 is none), key keys[2 * q], keys[2 * q + 1]. Writes
// lanes[(q * n_lanes + r) * k_lane + i], the i-th best rank's id that lane r scores, then -1, and how many there are to
// counts[q * n_lanes + r]. An id that stands twice in one pool is refused: duplicate_query then names the query.
[[nodiscard]] PlanOutcome plan(const Kernels& kernels, const PlanParameters& parameters, const std::int64_t* pool,
                               std::size_t n_queries, std::size_t k_pool, const std::uint64_t* keys,
                               std::int64_t* lanes, std::int32_t* counts, std::size_t* duplicate_query,
                               std::size_t n_threads, const Interrupt& interrupt);

}  // namespace lw
