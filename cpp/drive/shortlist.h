// What first passes without a guarantee share: the candidates with the best estimates, and their way to the rows.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
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

// Keys whose word, the upper half, is at most `word`.
inline std::size_t count_up_to(const std::vector<std::uint64_t>& keys, std::uint32_t word) {
  std::uint32_t n = 0;
  for (const std::uint64_t key : keys) n += static_cast<std::uint32_t>(key >> 32) <= word ? 1u : 0u;
  return n;
}

// A word up to which there are n keys: at least `least`, and at most `most` unless several share it. It is found by
// counting, and nothing in that depends on comparisons that would be guessed wrong.
struct Split {
  std::uint32_t word;
  std::size_t n;

  Split(const std::vector<std::uint64_t>& keys, std::size_t least, std::size_t most) {
    std::uint32_t low = 0xFFFFFFFFu;
    std::uint32_t high = 0;
    for (const std::uint64_t key : keys) {
      low = std::min(low, static_cast<std::uint32_t>(key >> 32));
      high = std::max(high, static_cast<std::uint32_t>(key >> 32));
    }
    std::size_t before = 0;
    n = keys.size();
    for (bool even = true; n > most && low < high; even = !even) {
      // As if they were spread evenly, and in turns with the middle, which always gets somewhere.
      std::uint32_t middle = low + (high - low) / 2;
      if (even) {
        const float from = estimate_of(static_cast<std::uint64_t>(low) << 32);
        const float to = estimate_of(static_cast<std::uint64_t>(high) << 32);
        const float share = static_cast<float>((least + most) / 2 - before) / static_cast<float>(n - before);
        middle = std::clamp(static_cast<std::uint32_t>(to_key(from + (to - from) * share, 0) >> 32), low, high - 1);
      }
      const std::size_t up_to = count_up_to(keys, middle);
      if (up_to < least) {
        low = middle + 1;
        before = up_to;
      } else {
        high = middle;
        n = up_to;
      }
    }
    word = high;
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

  // Drops most of what is certainly not among the best.
  void shrink() {
    const Split split(keys, size, size + size / 4);
    // One word may have too many.
    split.n > size + size / 4 ? cut() : keep(split.word);
  }

  // Drops all but the best, which stay in their order: that of positions reads memory forwards.
  void cut() {
    if (keys.size() < size) return;
    const Split split(keys, size, size);
    keep(split.word);
    if (keys.size() == size) return;
    // Of those that share the last word, the first positions.
    std::vector<std::uint64_t> last;
    for (const std::uint64_t key : keys) {
      if (key >> 32 == split.word) last.push_back(key);
    }
    const std::size_t n_more = keys.size() - size;
    const auto first_more = last.end() - static_cast<std::ptrdiff_t>(n_more);
    std::nth_element(last.begin(), first_more, last.end());
    std::erase_if(keys, [&](std::uint64_t key) { return key >= *first_more; });
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
  // Drops keys with a word beyond this one.
  void keep(std::uint32_t word) {
    std::size_t n = 0;
    for (const std::uint64_t key : keys) {
      keys[n] = key;
      n += key >> 32 <= word ? 1 : 0;
    }
    keys.resize(n);
    bound = estimate_of(static_cast<std::uint64_t>(word) << 32);
  }
};

inline void merge(const Shortlist& piece, Shortlist& whole) {
  whole.keys.insert(whole.keys.end(), piece.keys.begin(), piece.keys.end());
  whole.shrink_at_times();
  whole.stats.candidates += piece.stats.candidates;
  whole.stats.dimensions += piece.stats.dimensions;
}

}  // namespace lw
