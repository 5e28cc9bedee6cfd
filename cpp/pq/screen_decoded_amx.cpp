// The first pass over product codes on AMX: sixteen queries times sixteen decoded candidates an instruction.
//
// Sixteen quads of a group are, as they are decoded, the operand that the matrix unit wants, and 64 coordinates of
// sixteen queries the other one. TDPBSSD adds up int32 without saturation, so the products are those of every other
// ISA.
#include "../isa/amx.h"
#include "estimate.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kTileQueries = 16;
constexpr std::size_t kTileBytes = 1024;  // sixteen quads of a group

// G groups from `first` on, 1 or 4: with four sums none waits for its own last product.
template <std::size_t G>
LW_INLINE void screen(const DecodedRows& rows, std::size_t first, const DecodedQueries& queries, std::size_t n_queries,
                      std::uint16_t* alive, float* estimates) {
  alignas(64) std::int32_t products[G][kTileQueries][kLanes];
  const std::size_t stride = rows.n_quads * 4;
  const std::int8_t* const codes = rows.codes + first * stride * kLanes;
  for (std::size_t q = 0; q < n_queries; q += kTileQueries) {
    const std::int8_t* const own = queries.codes + q * stride;
    _tile_zero(0);
    if constexpr (G > 1) {
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (std::size_t tile = 0; tile < rows.n_quads / kLanes; ++tile) {
      const std::int8_t* const at = codes + tile * kTileBytes;
      _tile_loadd(4, own + tile * 64, static_cast<long>(stride));
      _tile_loadd(5, at, 64);
      _tile_dpbssd(0, 4, 5);
      if constexpr (G > 1) {
        _tile_loadd(6, at + stride * kLanes, 64);
        _tile_dpbssd(1, 4, 6);
        _tile_loadd(7, at + 2 * stride * kLanes, 64);
        _tile_dpbssd(2, 4, 7);
        _tile_loadd(5, at + 3 * stride * kLanes, 64);
        _tile_dpbssd(3, 4, 5);
      }
    }
    _tile_stored(0, products[0], 64);
    if constexpr (G > 1) {
      _tile_stored(1, products[1], 64);
      _tile_stored(2, products[2], 64);
      _tile_stored(3, products[3], 64);
    }
    const std::size_t last = q + kTileQueries < n_queries ? q + kTileQueries : n_queries;
    for (std::size_t g = 0; g < G; ++g)
      estimate(rows, first + g, queries, n_queries, q, last, products[g], alive, estimates);
  }
}

}  // namespace

void screen_decoded(const DecodedRows& rows, std::size_t n_groups, const DecodedQueries& queries, std::size_t n_queries,
                    std::uint16_t* alive, float* estimates) {
  configure_tiles();
  std::size_t g = 0;
  for (; g + 4 <= n_groups; g += 4) screen<4>(rows, g, queries, n_queries, alive, estimates);
  for (; g < n_groups; ++g) screen<1>(rows, g, queries, n_queries, alive, estimates);
  _tile_release();
}

}  // namespace lw::LW_ISA
