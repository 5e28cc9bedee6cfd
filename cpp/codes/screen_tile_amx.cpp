// The first pass over byte codes for several queries on AMX: sixteen queries times sixteen candidates an instruction.
//
// A group's sixteen quads of codes are, as they lie, the operand that the matrix unit wants: 4 KB of front are four of
// its registers. Four groups meet all queries while they are in the first cache. TDPBSSD adds up int32 without
// saturation, so the products are those of every other ISA.
#include <cstring>

#include "../isa/amx.h"
#include "check.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kTileQueries = 16;
constexpr std::size_t kTileQuads = 16;  // quads in a tile of codes: 64 dimensions
constexpr std::size_t kTileBytes = 1024;
constexpr std::size_t kKeptTiles = 64;  // of queries, gathered once for all groups

// Up to sixteen of the queries.
struct Block {
  std::size_t first, last;
};

LW_INLINE Block block_from(std::size_t first, std::size_t n_queries) {
  return {first, first + kTileQueries < n_queries ? first + kTileQueries : n_queries};
}

// Where the stretch that begins at a quad ends.
LW_INLINE std::size_t stretch_end(std::size_t begin, std::size_t step_end) {
  return begin + kTileQuads < step_end ? begin + kTileQuads : step_end;
}

// All of a run's stretches as tiles of queries, as far as there is room: the last place is shared by those that have
// none of their own and are gathered when they are wanted.
struct QueryTiles {
  alignas(64) std::int8_t bytes[kKeptTiles * kTileBytes];
  const CodeQuery* queries;
  std::size_t n_stretches = 0;
  bool complete;

  QueryTiles(const CodeFront& front, const CodeQuery* some, std::size_t n_queries) : queries(some) {
    std::size_t tile = 0;
    for (std::size_t first = 0; first < n_queries; first += kTileQueries) {
      n_stretches = 0;
      for (std::size_t step = 0, begin = 0; step < front.n_steps; ++step) {
        for (; begin < front.ends[step]; begin = stretch_end(begin, front.ends[step]), ++tile, ++n_stretches) {
          if (tile < kKeptTiles)
            gather(block_from(first, n_queries), begin, stretch_end(begin, front.ends[step]), tile);
        }
      }
    }
    complete = tile <= kKeptTiles;
  }

  const std::int8_t* get(const Block& block, std::size_t stretch, std::size_t begin, std::size_t end) {
    const std::size_t tile = block.first / kTileQueries * n_stretches + stretch;
    const std::size_t place = tile < kKeptTiles ? tile : kKeptTiles - 1;
    if (!complete && place == kKeptTiles - 1) gather(block, begin, end, place);
    return bytes + place * kTileBytes;
  }

  // The block's codes of one stretch of at most 64 dimensions, zero behind its end.
  void gather(const Block& block, std::size_t begin, std::size_t end, std::size_t place) {
    std::int8_t* const tile = bytes + place * kTileBytes;
    std::memset(tile, 0, kTileBytes);
    for (std::size_t q = block.first; q < block.last; ++q) {
      std::memcpy(tile + (q - block.first) * kTileQuads * 4, queries[q].codes + 4 * begin, 4 * (end - begin));
    }
  }
};

// Shifts the products with each query of a block before a step's are added.
LW_INLINE void shift(const Block& block, const CodeQuery* queries, std::size_t step, std::int32_t (*products)[kLanes]) {
  for (std::size_t q = block.first; q < block.last; ++q) {
    std::int32_t* const row = products[q - block.first];
    store(row, shift_left(load_i32(row), queries[q].shifts[step]));
  }
}

// Groups [first, first + 4): four sums, so that none waits for its own last product.
LW_INLINE void screen_four(const CodeFront& front, std::size_t first, const Block& block, QueryTiles& tiles,
                           const CheckedQueries& checked, std::uint16_t* alive, float* estimates,
                           std::uint64_t* quads_read) {
  alignas(64) std::int32_t products[4][kTileQueries][kLanes];
  std::size_t begin = 0;
  std::size_t stretch = 0;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::size_t step = 0; step < front.n_steps; ++step) {
    const std::size_t stride = (front.ends[step] - begin) * kLanes * 4;
    const std::int8_t* at = front.codes[step] + first * stride;
    for (; begin < front.ends[step];
         begin = stretch_end(begin, front.ends[step]), ++stretch, at += kTileQuads * kLanes * 4) {
      _tile_loadd(4, tiles.get(block, stretch, begin, stretch_end(begin, front.ends[step])), 64);
      _tile_loadd(5, at, 64);
      _tile_dpbssd(0, 4, 5);
      _tile_loadd(6, at + stride, 64);
      _tile_dpbssd(1, 4, 6);
      _tile_loadd(7, at + 2 * stride, 64);
      _tile_dpbssd(2, 4, 7);
      _tile_loadd(5, at + 3 * stride, 64);
      _tile_dpbssd(3, 4, 5);
    }
    const bool looks = step >= front.first_look;
    if (!looks && !checked.shifted) continue;
    _tile_stored(0, products[0], 64);
    _tile_stored(1, products[1], 64);
    _tile_stored(2, products[2], 64);
    _tile_stored(3, products[3], 64);
    bool any = !looks;
    for (std::size_t g = 0; looks && g < 4; ++g) {
      any |= check(front, first + g, step, checked, block.first, block.last, products[g], alive, estimates, quads_read);
    }
    if (!any) return;
    if (!checked.shifted) continue;
    for (std::size_t g = 0; g < 4; ++g) shift(block, checked.queries, step + 1, products[g]);
    _tile_loadd(0, products[0], 64);
    _tile_loadd(1, products[1], 64);
    _tile_loadd(2, products[2], 64);
    _tile_loadd(3, products[3], 64);
  }
}

// One group alone.
LW_INLINE void screen_one(const CodeFront& front, std::size_t group, const Block& block, QueryTiles& tiles,
                          const CheckedQueries& checked, std::uint16_t* alive, float* estimates,
                          std::uint64_t* quads_read) {
  alignas(64) std::int32_t products[kTileQueries][kLanes];
  std::size_t begin = 0;
  std::size_t stretch = 0;
  _tile_zero(0);
  for (std::size_t step = 0; step < front.n_steps; ++step) {
    const std::int8_t* at = front.codes[step] + group * (front.ends[step] - begin) * kLanes * 4;
    for (; begin < front.ends[step];
         begin = stretch_end(begin, front.ends[step]), ++stretch, at += kTileQuads * kLanes * 4) {
      _tile_loadd(4, tiles.get(block, stretch, begin, stretch_end(begin, front.ends[step])), 64);
      _tile_loadd(5, at, 64);
      _tile_dpbssd(0, 4, 5);
    }
    const bool looks = step >= front.first_look;
    if (!looks && !checked.shifted) continue;
    _tile_stored(0, products, 64);
    if (looks && !check(front, group, step, checked, block.first, block.last, products, alive, estimates, quads_read)) {
      return;
    }
    if (!checked.shifted) continue;
    shift(block, checked.queries, step + 1, products);
    _tile_loadd(0, products, 64);
  }
}

}  // namespace

void screen_tile(const CodeFront& front, std::size_t n_groups, const CodeQuery* queries, std::size_t n_queries,
                 const float* limits, std::uint16_t* alive, float* estimates, std::uint64_t* quads_read) {
  configure_tiles();
  const CheckedQueries checked(front, queries, n_queries, limits);
  QueryTiles tiles(front, queries, n_queries);
  for (std::size_t g = 0; g < n_groups;) {
    const bool four = g + 4 <= n_groups;
    for (std::size_t first = 0; first < n_queries; first += kTileQueries) {
      const Block block = block_from(first, n_queries);
      if (four) {
        screen_four(front, g, block, tiles, checked, alive, estimates, quads_read);
      } else {
        screen_one(front, g, block, tiles, checked, alive, estimates, quads_read);
      }
    }
    g += four ? 4 : 1;
  }
  _tile_release();
}

}  // namespace lw::LW_ISA
