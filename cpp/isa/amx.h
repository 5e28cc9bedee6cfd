// The matrix unit's registers as all kernels use them: eight tiles of sixteen rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include "isa.h"

namespace lw::LW_ISA {
namespace {

struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {};
  std::uint8_t rows[16] = {};
};

// Until _tile_release.
LW_INLINE void configure_tiles() {
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) {
    shapes.bytes_per_row[t] = 64;
    shapes.rows[t] = 16;
  }
  _tile_loadconfig(&shapes);
}

}  // namespace
}  // namespace lw::LW_ISA
