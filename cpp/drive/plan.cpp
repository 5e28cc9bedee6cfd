#include "plan.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <memory>
#include <vector>

namespace lw {
namespace {

// The counter's second word keeps the uses of one key apart: the scheme, and for stratified the draw.
constexpr std::uint64_t kPermuteTag = 1;
constexpr std::uint64_t kStratifiedTag = 2;
constexpr std::uint64_t kOwnerTag = 3;

constexpr std::size_t kQueriesPerPiece = 128;

// (word * n) / 2^64 and (word * n) / 2^32: a fair share of [0, n) for each value of a uniform word.
std::size_t scale64(std::uint64_t word, std::uint64_t n) {
#if defined(__SIZEOF_INT128__)
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::size_t>(static_cast<Wide>(word) * n >> 64);
#else
  const std::uint64_t low = (word & 0xFFFFFFFF) * n;
  return static_cast<std::size_t>(((word >> 32) * n + (low >> 32)) >> 32);
#endif
}
std::size_t scale32(std::uint32_t word, std::size_t n) {
  return static_cast<std::size_t>(std::uint64_t{word} * n >> 32);
}

std::size_t whole_units(std::size_t n) { return (n + kCountersTogether - 1) / kCountersTogether * kCountersTogether; }

// Plans one query after another with the same buffers.
class Planner {
 public:
  Planner(const Kernels& kernels, const PlanParameters& parameters, std::size_t k_pool)
      : kernels_(kernels), p_(parameters), next_(parameters.n_lanes), count_(parameters.n_lanes), seen_(kSeenSlots, 0) {
    const std::size_t padded = (k_pool + kCountersTogether) / kCountersTogether * kCountersTogether;
    if (k_pool * parameters.n_lanes <= kRoomyPlaces) roomy_.resize(padded * parameters.n_lanes);
    copied_.resize(padded);
    lane_.resize(padded);
    word0_.resize(padded);
    word1_.resize(padded);
    order_.resize(padded);
    bucket_.resize(padded + 1);
  }

  // False if the pool holds an id twice.
  bool plan(const std::int64_t* pool, std::size_t k_pool, const std::uint64_t* key, std::int64_t* lanes,
            std::int32_t* counts) {
    if (!take(pool, k_pool)) return false;
    switch (p_.scheme) {
      case Scheme::kPermute:
        permute(key);
        break;
      case Scheme::kStratified:
        stratify(key);
        break;
      case Scheme::kOwner:
        own(key);
        break;
    }
    deal(lanes, counts);
    return true;
  }

 private:
  static constexpr std::uint32_t kNobody = std::numeric_limits<std::uint32_t>::max();
  static constexpr std::uint32_t kEverybody = kNobody - 1;
  static constexpr std::uint64_t kNoId = ~std::uint64_t{0};  // candidates are not negative
  static constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15;
  static constexpr std::size_t kRoomyPlaces = std::size_t{1} << 16;
  static constexpr unsigned kSeenBits = 14;
  static constexpr std::size_t kSeenSlots = std::size_t{1} << kSeenBits;

  // Takes the candidates there are; false if one stands twice.
  bool take(const std::int64_t* pool, std::size_t k_pool) {
    ids_ = reinterpret_cast<const std::uint64_t*>(pool);
    n_ = k_pool;
    // The threefry kernel reads whole vectors of ids.
    if (k_pool % kCountersTogether == 0) {
      const Look look = look_through();
      if (look == Look::kClean) return true;
      if (look == Look::kDuplicate) return false;
    }
    n_ = 0;
    for (std::size_t i = 0; i < k_pool; ++i) {
      if (pool[i] >= 0) copied_[n_++] = static_cast<std::uint64_t>(pool[i]);
    }
    ids_ = copied_.data();
    return look_through() == Look::kClean;
  }

  enum class Look { kClean, kMissing, kDuplicate };

  // Looks for -1 and for ids that stand twice. A table of generations finds nearly all pools clean in one pass; a slot
  // that is taken only means "look closely".
  Look look_through() {
    if (++generation_ == 0) {
      std::fill(seen_.begin(), seen_.end(), std::uint8_t{0});
      generation_ = 1;
    }
    // Locals, because a store to the table could otherwise change the members for all the compiler knows.
    const std::uint8_t generation = generation_;
    std::uint8_t* const seen = seen_.data();
    const std::uint64_t* const ids = ids_;
    const std::size_t n = n_;
    bool suspicious = false;
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint64_t id = ids[i];
      any |= id;
      std::uint8_t& slot = seen[id * kGolden >> (64 - kSeenBits)];
      suspicious |= slot == generation;
      slot = generation;
    }
    if (static_cast<std::int64_t>(any) < 0) return Look::kMissing;
    if (!suspicious) return Look::kClean;
    return has_duplicate() ? Look::kDuplicate : Look::kClean;
  }

  // The close look: an open-addressed table of the ids themselves, at most half full.
  bool has_duplicate();

  void draw(const std::uint64_t* key, const std::uint64_t* counters, std::uint64_t tag, std::size_t n) {
    kernels_.threefry(key, counters, tag, whole_units(n), word0_.data(), word1_.data());
  }

  // lane_[rank] for the paper's scheme: the n best of the total budget in the order of (PRF(key, id), id); the first
  // places are everybody's, the rest goes round the lanes.
  void permute(const std::uint64_t* key) {
    const std::size_t n = std::min(n_, p_.n_lanes * p_.k_lane);
    std::fill(lane_.begin(), lane_.begin() + static_cast<std::ptrdiff_t>(n_), kNobody);
    draw(key, ids_, kPermuteTag, n);
    sort_by_word0(n);
    const std::size_t n_shared = std::min(n, p_.k_lane - p_.k_dedicated);
    for (std::size_t i = 0; i < n_shared; ++i) lane_[order_[i]] = kEverybody;
    const std::size_t dealt = std::min(n, n_shared + p_.n_lanes * p_.k_dedicated);
    std::uint32_t lane = 0;
    for (std::size_t i = n_shared; i < dealt; ++i) {
      lane_[order_[i]] = lane;
      lane = lane + 1 == p_.n_lanes ? 0 : lane + 1;
    }
  }

  // order_ <- ranks sorted by (word0, id). The words are uniform, so a bucket each brings them nearly in place.
  void sort_by_word0(std::size_t n) {
    std::fill_n(bucket_.begin(), n + 1, 0u);
    for (std::size_t i = 0; i < n; ++i) ++bucket_[scale64(word0_[i], n) + 1];
    for (std::size_t b = 0; b < n; ++b) bucket_[b + 1] += bucket_[b];
    for (std::size_t i = 0; i < n; ++i) order_[bucket_[scale64(word0_[i], n)]++] = static_cast<std::uint32_t>(i);
    const auto before = [this](std::uint32_t a, std::uint32_t b) {
      return word0_[a] < word0_[b] || (word0_[a] == word0_[b] && ids_[a] < ids_[b]);
    };
    // bucket_[b] is now the end of bucket b.
    constexpr std::size_t kFewEnough = 16;
    std::size_t begin = 0;
    for (std::size_t b = 0; b < n; ++b) {
      const std::size_t end = bucket_[b];
      if (end - begin > kFewEnough) {
        std::sort(order_.begin() + static_cast<std::ptrdiff_t>(begin),
                  order_.begin() + static_cast<std::ptrdiff_t>(end), before);
      } else {
        for (std::size_t i = begin + 1; i < end; ++i) {
          const std::uint32_t moved = order_[i];
          std::size_t j = i;
          for (; j > begin && before(moved, order_[j - 1]); --j) order_[j] = order_[j - 1];
          order_[j] = moved;
        }
      }
      begin = end;
    }
  }

  // The best ranks are everybody's; each further run of n_lanes ranks is dealt in an order of its own, a Fisher-Yates
  // shuffle that takes 32 bits a step: four steps from each block of the PRF.
  void stratify(const std::uint64_t* key) {
    const std::size_t m = p_.n_lanes;
    const std::size_t n_shared = std::min(n_, p_.k_lane - p_.k_dedicated);
    const std::size_t n = std::min(n_, n_shared + m * p_.k_dedicated);
    std::fill(lane_.begin(), lane_.begin() + static_cast<std::ptrdiff_t>(n_shared), kEverybody);
    std::fill(lane_.begin() + static_cast<std::ptrdiff_t>(n), lane_.begin() + static_cast<std::ptrdiff_t>(n_), kNobody);
    const std::size_t n_strata = (n - n_shared + m - 1) / m;
    const std::size_t padded = n_strata + kCountersTogether;
    while (stratum_.size() < padded) stratum_.push_back(stratum_.size());
    if (word0_.size() < padded) {
      word0_.resize(padded);
      word1_.resize(padded);
    }
    dealing_.resize(n_strata * m);
    // Locals, because a store to the lanes could otherwise change the members for all the compiler knows.
    std::uint32_t* const dealing = dealing_.data();
    const std::uint64_t* const word0 = word0_.data();
    const std::uint64_t* const word1 = word1_.data();
    for (std::size_t s = 0; s < n_strata; ++s) {
      for (std::size_t j = 0; j < m; ++j) dealing[s * m + j] = static_cast<std::uint32_t>(j);
    }
    for (std::size_t block = 0; block * 4 + 1 < m; ++block) {
      draw(key, stratum_.data(), kStratifiedTag | static_cast<std::uint64_t>(block) << 8, n_strata);
      for (std::size_t s = 0; s < n_strata; ++s) {
        const std::uint32_t words[4] = {
            static_cast<std::uint32_t>(word0[s]), static_cast<std::uint32_t>(word0[s] >> 32),
            static_cast<std::uint32_t>(word1[s]), static_cast<std::uint32_t>(word1[s] >> 32)};
        std::uint32_t* const lanes = dealing + s * m;
        for (std::size_t step = 0; step < 4 && block * 4 + step + 1 < m; ++step) {
          const std::size_t last = m - 1 - (block * 4 + step);
          std::swap(lanes[last], lanes[scale32(words[step], last + 1)]);
        }
      }
    }
    std::copy_n(dealing, n - n_shared, lane_.begin() + static_cast<std::ptrdiff_t>(n_shared));
  }

  void own(const std::uint64_t* key) {
    const Ownership owner{p_.n_lanes, p_.share_below, p_.share_all};
    owner.draw(kernels_, key, ids_, n_, word0_.data(), word1_.data());
    if (!may_repeat_or_crowd()) return;  // deal_once reads the words themselves
    for (std::size_t i = 0; i < n_; ++i) {
      const std::size_t lane = owner.lane(word0_[i], word1_[i]);
      lane_[i] = lane == Ownership::kEverybody ? kEverybody : static_cast<std::uint32_t>(lane);
    }
  }

  // Whether a candidate may have two lanes, or `owner` lanes with room for all candidates would be too much memory.
  bool may_repeat_or_crowd() const {
    if (p_.head > 0) return true;
    if (p_.scheme != Scheme::kOwner) return p_.k_dedicated < p_.k_lane;
    return p_.share_all || p_.share_below > 0 || roomy_.empty();
  }

  // Hands the candidates out in rank order, so that a lane's budget and a deadline both cut the least likely.
  void deal(std::int64_t* lanes, std::int32_t* counts) {
    const std::size_t k = p_.k_lane;
    for (std::size_t lane = 0; lane < p_.n_lanes; ++lane) next_[lane] = lanes + lane * k;
    if (may_repeat_or_crowd()) {
      deal_with_repeats(lanes);
    } else {
      deal_once(lanes);
    }
    for (std::size_t lane = 0; lane < p_.n_lanes; ++lane) {
      std::int64_t* const end = lanes + (lane + 1) * k;
      counts[lane] = static_cast<std::int32_t>(next_[lane] - (end - k));
      std::fill(next_[lane], end, std::int64_t{-1});
    }
  }

  // No candidate has two lanes.
  void deal_once(std::int64_t* lanes) {
    std::int64_t** const next = next_.data();
    const std::uint32_t* const lane = lane_.data();
    const std::uint64_t* const ids = ids_;
    const std::size_t n = n_;
    if (p_.scheme == Scheme::kPermute) {
      for (std::size_t i = 0; i < n; ++i) {
        if (lane[i] != kNobody) *next[lane[i]]++ = static_cast<std::int64_t>(ids[i]);
      }
      return;
    }
    if (p_.scheme == Scheme::kStratified) {
      // A whole stratum gives every lane one candidate, so its number is their place in the lanes.
      const std::size_t m = p_.n_lanes;
      const std::size_t k = p_.k_lane;
      const std::size_t n_whole = std::min(n / m, k);
      for (std::size_t s = 0; s < n_whole; ++s) {
        for (std::size_t i = s * m; i < (s + 1) * m; ++i) lanes[lane[i] * k + s] = static_cast<std::int64_t>(ids[i]);
      }
      for (std::size_t r = 0; r < m; ++r) next[r] += n_whole;
      for (std::size_t i = n_whole * m; i < n; ++i) {
        if (lane[i] != kNobody) *next[lane[i]]++ = static_cast<std::int64_t>(ids[i]);
      }
      return;
    }
    // Chance decides when a lane is full, so a branch on it would be mispredicted: deal into lanes that hold all
    // candidates, then keep what the budget allows.
    const std::size_t k = p_.k_lane;
    const std::size_t n_lanes = p_.n_lanes;
    std::int64_t* const roomy = roomy_.data();
    std::size_t* const count = count_.data();
    for (std::size_t r = 0; r < n_lanes; ++r) count[r] = 0;
    const std::uint64_t* const words = word0_.data();
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t owner = scale64(words[i], n_lanes);
      roomy[owner * n + count[owner]++] = static_cast<std::int64_t>(ids[i]);
    }
    for (std::size_t r = 0; r < n_lanes; ++r) {
      const std::size_t kept = std::min(count[r], k);
      for (std::size_t i = 0; i < kept; ++i) next[r][i] = roomy[r * n + i];
      next[r] += kept;
    }
  }

  void deal_with_repeats(std::int64_t* lanes) {
    const auto give = [&](std::size_t lane, std::uint64_t id) {
      if (next_[lane] < lanes + (lane + 1) * p_.k_lane) *next_[lane]++ = static_cast<std::int64_t>(id);
    };
    for (std::size_t i = 0; i < n_; ++i) {
      const std::uint32_t lane = lane_[i];
      if (lane == kEverybody) {
        for (std::size_t any = 0; any < p_.n_lanes; ++any) give(any, ids_[i]);
      } else if (lane != kNobody) {
        give(lane, ids_[i]);
        if (i < p_.head && p_.n_lanes > 1) give(lane + 1 == p_.n_lanes ? 0 : lane + 1, ids_[i]);
      }
    }
  }

  const Kernels& kernels_;
  const PlanParameters& p_;
  const std::uint64_t* ids_ = nullptr;  // the candidates of this query by rank, padded for the threefry kernel
  std::size_t n_ = 0;
  std::vector<std::uint64_t> copied_, word0_, word1_, stratum_, table_;
  std::vector<std::uint32_t> lane_, order_, bucket_, dealing_;
  std::vector<std::int64_t*> next_;  // where each lane's next candidate goes
  // For `owner` alone: lanes with room for every candidate, and how many they hold.
  std::vector<std::int64_t> roomy_;
  std::vector<std::size_t> count_;
  std::vector<std::uint8_t> seen_;
  std::uint8_t generation_ = 0;
};

bool Planner::has_duplicate() {
  const unsigned bits = static_cast<unsigned>(std::bit_width(2 * n_));
  table_.assign(std::size_t{1} << bits, kNoId);
  const std::size_t mask = table_.size() - 1;
  for (std::size_t i = 0; i < n_; ++i) {
    std::size_t at = ids_[i] * kGolden >> (64 - bits);
    for (; table_[at] != kNoId; at = (at + 1) & mask) {
      if (table_[at] == ids_[i]) return true;
    }
    table_[at] = ids_[i];
  }
  return false;
}

}  // namespace

void Ownership::draw(const Kernels& kernels, const std::uint64_t* key, const std::uint64_t* ids, std::size_t n,
                     std::uint64_t* word0, std::uint64_t* word1) const {
  kernels.threefry(key, ids, kOwnerTag, whole_units(n), word0, word1);
}

std::size_t Ownership::lane(std::uint64_t word0, std::uint64_t word1) const {
  return share_all || word1 < share_below ? kEverybody : scale64(word0, n_lanes);
}

void owners_of(const Kernels& kernels, const Ownership& owner, const std::uint64_t* key, const std::int64_t* ids,
               std::size_t n, std::int32_t* lanes) {
  std::uint64_t counters[kCountersTogether] = {};
  std::uint64_t word0[kCountersTogether];
  std::uint64_t word1[kCountersTogether];
  for (std::size_t begin = 0; begin < n; begin += kCountersTogether) {
    const std::size_t n_now = std::min(n - begin, kCountersTogether);
    for (std::size_t i = 0; i < n_now; ++i) counters[i] = static_cast<std::uint64_t>(ids[begin + i]);
    owner.draw(kernels, key, counters, n_now, word0, word1);
    for (std::size_t i = 0; i < n_now; ++i) {
      const std::size_t lane = owner.lane(word0[i], word1[i]);
      const bool nobody = ids[begin + i] < 0 || lane == Ownership::kEverybody;
      lanes[begin + i] = nobody ? -1 : static_cast<std::int32_t>(lane);
    }
  }
}

PlanOutcome plan(const Kernels& kernels, const PlanParameters& parameters, const std::int64_t* pool,
                 std::size_t n_queries, std::size_t k_pool, const std::uint64_t* keys, std::int64_t* lanes,
                 std::int32_t* counts, std::size_t* duplicate_query, std::size_t n_threads,
                 const Interrupt& interrupt) {
  std::atomic<std::size_t> duplicate{n_queries};
  const std::size_t n_pieces = (n_queries + kQueriesPerPiece - 1) / kQueriesPerPiece;
  n_threads = std::min(n_threads, std::max<std::size_t>(n_pieces, 1));
  std::vector<std::unique_ptr<Planner>> planners(n_threads);
  const bool finished = parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t worker) {
    if (planners[worker] == nullptr) planners[worker] = std::make_unique<Planner>(kernels, parameters, k_pool);
    Planner& planner = *planners[worker];
    const std::size_t end = std::min(n_queries, (piece + 1) * kQueriesPerPiece);
    for (std::size_t q = piece * kQueriesPerPiece; q < end; ++q) {
      const std::size_t first_lane = q * parameters.n_lanes;
      if (planner.plan(pool + q * k_pool, k_pool, keys + 2 * q, lanes + first_lane * parameters.k_lane,
                       counts + first_lane)) {
        continue;
      }
      // Remember the first one, whichever thread comes first.
      std::size_t known = duplicate.load();
      while (q < known && !duplicate.compare_exchange_weak(known, q)) {
      }
    }
  });
  if (!finished) return PlanOutcome::kInterrupted;
  *duplicate_query = duplicate.load();
  return *duplicate_query < n_queries ? PlanOutcome::kDuplicate : PlanOutcome::kPlanned;
}

}  // namespace lw
