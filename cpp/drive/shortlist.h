// What first passes without a guarantee share: the candidates with the best estimates, and their way to the rows.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>
#include <vector>

#include "store.h"

namespace lw {

// An estimate and a position below 2^32 as one whole number, in their order: comparing those costs no wrong guesses.
inline std::uint64_t to_key(float estimate, std::size_t position) {
  const auto word = std::bit_cast<std::uint32_t>(estimate + 0.0f);
  const std::uint32_t ordered = word ^ (0x80000000u | (0u - (word >> 31)));
  return static_cast<std::uint64_t>(ordered) << 32 | position;
}
inline float estimate_of(std::uint64_t key) {
  const auto ordered = static_cast<std::uint32_t>(key >> 32);
  return std::bit_cast<float>(ordered ^ (0x80000000u | ((ordered >> 31) - 1u)));
}
inline std::size_t position_of(std::uint64_t key) { return key & 0xFFFFFFFFu; }

// Equal ranges of keys' estimates, from the least to the largest. Nothing here depends on comparisons that would be
// guessed wrong.
struct Buckets {
  static constexpr int kFewestBits = 7;
  static constexpr int kMostBits = 11;
  std::uint64_t low;
  int shift;
  std::uint32_t counts[std::size_t{1} << kMostBits];

  explicit Buckets(const std::vector<std::uint64_t>& keys) : low(keys[0] >> 32) {
    // More buckets than there are keys would cost more than they tell apart.
    const int n_bits = std::clamp(static_cast<int>(std::bit_width(keys.size())) - 1, kFewestBits, kMostBits);
    std::fill_n(counts, std::size_t{1} << n_bits, 0u);
    std::uint64_t high = low;
    for (const std::uint64_t key : keys) {
      low = std::min(low, key >> 32);
      high = std::max(high, key >> 32);
    }
    shift = std::max(static_cast<int>(std::bit_width(high - low)) - n_bits, 0);
    for (const std::uint64_t key : keys) ++counts[of(key)];
  }

  std::size_t of(std::uint64_t key) const { return static_cast<std::size_t>(((key >> 32) - low) >> shift); }
  // Above the keys of a bucket.
  std::uint64_t end(std::size_t bucket) const {
    const std::uint64_t word = low + (static_cast<std::uint64_t>(bucket + 1) << shift);
    // Behind the largest word of all there may be nothing left to count to.
    return word > 0xFFFFFFFFu ? ~std::uint64_t{0} : word << 32;
  }
  // The bucket of the n-th key, n not 0 and no more than there are, and the number of keys before that bucket.
  std::pair<std::size_t, std::size_t> holding(std::size_t n) const {
    std::size_t bucket = 0;
    std::size_t before = 0;
    while (before + counts[bucket] < n) before += counts[bucket++];
    return {bucket, before};
  }
};

// The `size` best of a query so far by (estimate, position), and a few behind them that wait to be dropped together.
struct Shortlist {
  std::size_t size;
  float bound;  // estimates beyond it cannot be among the best
  std::vector<std::uint64_t> keys;
  ScanStats stats;

  static Shortlist of(const Request& request) {
    const std::size_t size = std::max({request.refine, request.rerank, request.k});
    return {size, std::numeric_limits<float>::infinity(), {}, {}};
  }
  void restart(const Shortlist& whole) {
    size = whole.size;
    bound = whole.bound;
    keys.clear();
    stats = {};
  }

  void add(float estimate, std::size_t position) {
    if (estimate > bound) return;
    keys.push_back(to_key(estimate, position));
    shrink_at_times();
  }
  // Dropping costs a pass over all: once for every so many.
  void shrink_at_times() {
    if (keys.size() >= 2 * std::max<std::size_t>(size, 32)) shrink();
  }

  // Drops what is certainly not among the best: all behind the bucket that the last of them is in.
  void shrink() {
    const Buckets buckets(keys);
    const auto [bucket, before] = buckets.holding(size);
    // It may hold too much, if many estimates are the same.
    if (before + buckets.counts[bucket] > size + size / 2) {
      cut();
      return;
    }
    keep(buckets.end(bucket));
  }

  // Drops all but the best, which stay in their order: that of positions reads memory forwards.
  void cut() {
    if (keys.size() < size) return;
    const Buckets buckets(keys);
    const auto [bucket, before] = buckets.holding(size);
    std::vector<std::uint64_t> some;
    some.reserve(buckets.counts[bucket]);
    for (const std::uint64_t key : keys) {
      if (buckets.of(key) == bucket) some.push_back(key);
    }
    const auto last = some.begin() + static_cast<std::ptrdiff_t>(size - before) - 1;
    std::nth_element(some.begin(), last, some.end());
    keep(*last + 1);
  }

  // Scores rows, those of the best estimates first, unless hopeless(estimate, position, search) says that one need not
  // be: it is asked for a few at a time, of which none knows the others.
  template <class Hopeless>
  Search settled(const Kernels& kernels, const Store& store, const Request& request, const float* query,
                 const Hopeless& hopeless) {
    // A bound that grows tighter spares rows, or their ends if they are long; without it, reads of rows hide behind
    // each other.
    constexpr std::size_t kMost = 256;
    constexpr std::size_t kLong = 128;
    const bool whole = request.eps0 == std::numeric_limits<double>::infinity() && store.dim <= kLong;
    const std::size_t together = whole ? kMost : kSettledTogether;
    const auto settle_some = [&](const std::int64_t* rows, std::size_t n, Search& search) {
      store.dim <= kLong ? settle(kernels, store, query, rows, n, search)
                         : settle_near(kernels, store, query, rows, n, search);
    };
    Search search = Search::of(request);
    search.stats = stats;
    cut();
    std::sort(keys.begin(), keys.end());
    std::int64_t rows[kMost];
    std::size_t n = 0;
    for (const std::uint64_t key : keys) {
      if (hopeless(estimate_of(key), position_of(key), search)) continue;
      rows[n++] = store.row(position_of(key));
      if (n < together) continue;
      settle_some(rows, n, search);
      n = 0;
    }
    settle_some(rows, n, search);
    return search;
  }

 private:
  // Drops keys from `end` on.
  void keep(std::uint64_t end) {
    std::size_t n = 0;
    std::uint64_t last = 0;
    for (const std::uint64_t key : keys) {
      keys[n] = key;
      n += key < end ? 1 : 0;
      last = std::max(last, key < end ? key : 0);
    }
    keys.resize(n);
    bound = estimate_of(last);
  }
};

inline void merge(const Shortlist& piece, Shortlist& whole) {
  whole.keys.insert(whole.keys.end(), piece.keys.begin(), piece.keys.end());
  whole.shrink_at_times();
  whole.stats.candidates += piece.stats.candidates;
  whole.stats.dimensions += piece.stats.dimensions;
}

}  // namespace lw
