// The loop over a store's pieces that every kind of scan shares: waves, threads, tiles of queries.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "float_mode.h"
#include "store.h"

namespace lw {

// A piece of a query's work: consecutive ranges with one running bound. Its size is fixed, so that the pruning, and
// with it an inexact answer, is the same for any number of threads and queries.
inline constexpr std::size_t kPositionsPerPiece = 2048;
inline constexpr std::size_t kPiecesPerWave = 64;
// Queries that look at a piece while it is in the cache.
inline constexpr std::size_t kQueriesPerTile = 64;

struct Piece {
  std::size_t first, last;  // ranges
};

struct Pieces {
  std::vector<Range> ranges;
  std::vector<Piece> pieces;

  // The probed lists of one query, all if probes is null.
  Pieces(const Store& store, const std::int64_t* probes, std::size_t n_probe) {
    if (probes == nullptr) n_probe = store.n_lists;
    for (std::size_t i = 0; i < n_probe; ++i) {
      const std::int64_t list = probes == nullptr ? static_cast<std::int64_t>(i) : probes[i];
      if (list < 0) continue;
      const auto l = static_cast<std::size_t>(list);
      const std::int64_t end = store.list_begin[l] + store.list_size[l];
      for (std::int64_t at = store.list_begin[l]; at < end; at += kPositionsPerPiece) {
        const std::int64_t stop = std::min<std::int64_t>(store.list_begin[l + 1], at + kPositionsPerPiece);
        ranges.push_back({at, stop, std::min(stop, end) - at});
      }
    }
    std::size_t positions = 0;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      if (pieces.empty() || positions >= kPositionsPerPiece) {
        pieces.push_back({i, i});
        positions = 0;
      }
      pieces.back().last = i + 1;
      positions += static_cast<std::size_t>(ranges[i].end - ranges[i].begin);
    }
  }

  // Waves of 1, 1, 2, 4, ... pieces: those of a wave start from one bound and can run side by side.
  std::size_t wave(std::size_t first) const {
    return std::min({std::max<std::size_t>(first, 1), kPiecesPerWave, pieces.size() - first});
  }
};

// Adds what a piece found to what its query has.
inline void merge(const Search& piece, Search& whole) {
  for (const Neighbor& candidate : piece.found) whole.best.push(candidate);
  whole.stats.candidates += piece.stats.candidates;
  whole.stats.dimensions += piece.stats.dimensions;
  whole.stats.settled += piece.stats.settled;
}

// For queries that begin without a guess, and put nothing off.
template <class Search, class Query>
Search begin(const Query& query, const Request& request, const std::vector<Range>& ranges) {
  Search search = Search::of(request);
  if constexpr (requires { query.guess(ranges, search); }) query.guess(ranges, search);
  return search;
}
template <class Query, class Run, class Search>
void catch_up(const Query& query, bool last, const std::vector<Range>& ranges, const Run& run, Search& search) {
  if constexpr (requires { query.catch_up(last, ranges, run, search); }) query.catch_up(last, ranges, run, search);
}

// Plan::prepare(first, n, run) returns n prepared queries as a vector. A prepared query has scan(ranges, n_ranges,
// search), which reads the bound of search.best and enters what it finds; Plan::scan_tile does so for several queries
// at once. output.take(q, k, search) gets each query's search when it is whole. A Search other than Search itself has
// of, restart and merge of its own. A query may set a first bound, in guess(ranges, search). What it puts off while it
// scans it is asked for after every wave, by catch_up(last, ranges, run, search), with the ranges of the whole scan:
// run(n, work) calls work(0), ..., work(n - 1), maybe side by side.
template <class Search = lw::Search, class Plan, class Output>
[[nodiscard]] bool search_lists(const Store& store, const Request& request, const Plan& plan, const Output& output,
                                std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const auto probes = [&](std::size_t q) {
    return request.probes == nullptr ? nullptr : request.probes + q * request.n_probe;
  };

  // Few queries share the threads within each of them, many are dealt out whole: the answers are the same.
  if (request.n_queries < 2 * n_threads) {
    bool finished = true;
    const auto run = [&](std::size_t n, const auto& work) {
      finished = finished && parallel_for(n, n_threads, interrupt, [&](std::size_t i, std::size_t) { work(i); });
    };
    const auto queries = plan.prepare(0, request.n_queries, run);
    if (!finished) return false;
    std::vector<Search> parts(kPiecesPerWave, Search::of(request));
    for (std::size_t q = 0; q < request.n_queries; ++q) {
      const Pieces work(store, probes(q), request.n_probe);
      Search whole = begin<Search>(queries[q], request, work.ranges);
      for (std::size_t first = 0; first < work.pieces.size();) {
        const std::size_t n = work.wave(first);
        run(n, [&](std::size_t i) {
          const Piece& piece = work.pieces[first + i];
          parts[i].restart(whole);
          queries[q].scan(work.ranges.data() + piece.first, piece.last - piece.first, parts[i]);
        });
        if (!finished) return false;
        for (std::size_t i = 0; i < n; ++i) merge(parts[i], whole);
        first += n;
        catch_up(queries[q], first == work.pieces.size(), work.ranges, run, whole);
        if (!finished) return false;
      }
      output.take(q, request.k, whole);
    }
    return true;
  }

  // With lists of its own, a query shares no piece with another: its tile is itself.
  const std::size_t n_tile =
      request.probes != nullptr ? 1 : std::clamp<std::size_t>(request.n_queries / (2 * n_threads), 1, kQueriesPerTile);
  const std::size_t n_tiles = (request.n_queries + n_tile - 1) / n_tile;
  std::vector<std::vector<Search>> parts_of(n_threads);
  return parallel_for(n_tiles, n_threads, interrupt, [&](std::size_t tile, std::size_t worker) {
    std::vector<Search>& parts = parts_of[worker];
    const std::size_t q0 = tile * n_tile;
    const std::size_t n = std::min(n_tile, request.n_queries - q0);
    const auto run = [](std::size_t n_works, const auto& one) {
      for (std::size_t i = 0; i < n_works; ++i) one(i);
    };
    const auto queries = plan.prepare(q0, n, run);
    const Pieces work(store, probes(q0), request.n_probe);
    std::vector<Search> whole;
    whole.reserve(n);
    for (const auto& query : queries) whole.push_back(begin<Search>(query, request, work.ranges));
    for (std::size_t first = 0; first < work.pieces.size();) {
      const std::size_t n_pieces = work.wave(first);
      parts.resize(std::max(parts.size(), n_pieces * n), Search::of(request));
      for (std::size_t i = 0; i < n_pieces; ++i) {
        const Piece& piece = work.pieces[first + i];
        for (std::size_t q = 0; q < n; ++q) parts[i * n + q].restart(whole[q]);
        plan.scan_tile(queries, work.ranges.data() + piece.first, piece.last - piece.first, parts.data() + i * n);
      }
      for (std::size_t i = 0; i < n_pieces * n; ++i) merge(parts[i], whole[i % n]);
      first += n_pieces;
      for (std::size_t q = 0; q < n; ++q) catch_up(queries[q], first == work.pieces.size(), work.ranges, run, whole[q]);
    }
    for (std::size_t q = 0; q < n; ++q) output.take(q0 + q, request.k, whole[q]);
  });
}

}  // namespace lw
