// As many products of codes as the matrix unit gives with its tiles loaded once.
#include <cstring>

#include "../isa/amx.h"

namespace lw::LW_ISA {

void multiply_add_codes(std::size_t n, const std::int8_t* codes, const std::int8_t* query, std::int32_t* out) {
  constexpr std::size_t kTiles = 4;
  constexpr std::size_t kProducts = kLanes * kLanes;  // of each lane, an instruction: sixteen quads and sixteen rows
  alignas(64) std::int8_t queries[kLanes * 64];
  alignas(64) std::int8_t panel[kLanes * 64];
  for (std::size_t i = 0; i < kLanes; ++i) {
    for (std::size_t j = 0; j < 64; j += 4) std::memcpy(queries + i * 64 + j, query, 4);
    std::memcpy(panel + i * 64, codes, 64);
  }
  configure_tiles();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, queries, 64);
  _tile_loadd(5, queries, 64);
  _tile_loadd(6, panel, 64);
  _tile_loadd(7, panel, 64);
  for (std::size_t done = 0; done < n; done += kTiles * kProducts) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  alignas(64) std::int32_t sums[kTiles][kLanes][kLanes];
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  _tile_release();
  I32 total = set_i32(0);
  for (std::size_t t = 0; t < kTiles; ++t) {
    for (std::size_t i = 0; i < kLanes; ++i) total = add(total, load_i32(sums[t][i]));
  }
  store(out, total);
}

}  // namespace lw::LW_ISA
