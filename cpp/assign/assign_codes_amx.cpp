// Coded points times coded centroids on AMX: sixteen points times sixteen centroids an instruction.
//
// A stretch of sixteen points is the left operand of the matrix unit as it lies, one of a panel the right one. While
// the unit works on a block of points and panels, the vector units look at the products of the block before. TDPBSSD
// adds up int32 without saturation: the products are those of every other ISA.
#include "../isa/amx.h"
#include "code_layout.h"
#include "winners.h"

namespace lw::LW_ISA {
namespace {

// Sixteen points and up to kPanels panels, and their products.
constexpr std::size_t kPanels = 4;
struct Block {
  std::size_t point, n_panels;
  std::uint32_t panels[kPanels];
  alignas(64) std::int32_t coarse[kPanels][kLanes][kLanes];
  alignas(64) std::int32_t fine[kPanels][kLanes][kLanes];
};

// The products with P panels, one or two, from the block's p-th on.
template <std::size_t P>
LW_INLINE void multiply(const std::int8_t* points, std::size_t stride, const CodedPanels& panels, std::size_t p,
                        Block& block) {
  const std::size_t plane = stride * kLanes;
  const std::int8_t* codes = panels.codes + 2 * block.panels[p] * plane;
  const std::int8_t* others = panels.codes + 2 * block.panels[p + P - 1] * plane;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (P == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::size_t d = 0; d < stride;
       d += kStretch, points += 2 * kStretchBytes, codes += kStretchBytes, others += kStretchBytes) {
    _tile_loadd(4, points, 64);
    _tile_loadd(5, points + kStretchBytes, 64);
    _tile_loadd(6, codes, 64);
    _tile_loadd(7, codes + plane, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 5, 6);
    _tile_dpbssd(1, 4, 7);
    if constexpr (P == 2) {
      _tile_loadd(6, others, 64);
      _tile_loadd(7, others + plane, 64);
      _tile_dpbssd(2, 4, 6);
      _tile_dpbssd(3, 5, 6);
      _tile_dpbssd(3, 4, 7);
    }
  }
  _tile_stored(0, block.coarse[p], 64);
  _tile_stored(1, block.fine[p], 64);
  if constexpr (P == 2) {
    _tile_stored(2, block.coarse[p + 1], 64);
    _tile_stored(3, block.fine[p + 1], 64);
  }
}

LW_INLINE void multiply(const std::int8_t* points, std::size_t stride, const CodedPanels& panels, Block& block) {
  std::size_t p = 0;
  for (; p + 2 <= block.n_panels; p += 2) multiply<2>(points, stride, panels, p, block);
  if (p < block.n_panels) multiply<1>(points, stride, panels, p, block);
}

LW_INLINE void meet(const Block& block, const float* weights, const CodedPanels& panels, const Winners& winners) {
  constexpr std::size_t kProducts = kLanes * kLanes;
  if (block.n_panels == kPanels) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      winners.meet<kPanels>(block.point + i, weights[block.point + i], block.coarse[0][i], block.fine[0][i], kProducts,
                            panels.bias, block.panels);
    }
    return;
  }
  for (std::size_t p = 0; p < block.n_panels; ++p) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      winners.meet<1>(block.point + i, weights[block.point + i], block.coarse[p][i], block.fine[p][i], kProducts,
                      panels.bias, block.panels + p);
    }
  }
}

}  // namespace

void assign_codes(const std::int8_t* points, std::size_t n_points, std::size_t stride, const float* weights,
                  const float* doubts, const CodedPanels& panels, void* scratch, std::int32_t* near) {
  configure_tiles();
  const Winners winners(scratch, n_points);
  winners.clear(n_points);
  Block blocks[2];
  std::size_t n_blocks = 0;
  for (std::size_t panel = 0; panel < panels.n; panel += kPanels) {
    const std::size_t n_panels = panel + kPanels <= panels.n ? kPanels : panels.n - panel;
    for (std::size_t point = 0; point < n_points; point += kLanes, ++n_blocks) {
      Block& block = blocks[n_blocks % 2];
      block.point = point;
      block.n_panels = n_panels;
      for (std::size_t p = 0; p < n_panels; ++p) block.panels[p] = panel_id(panels, panel + p);
      multiply(points + code_place(point, 0, stride), stride, panels, block);
      if (n_blocks > 0) meet(blocks[(n_blocks - 1) % 2], weights, panels, winners);
    }
  }
  _tile_release();
  if (n_blocks > 0) meet(blocks[(n_blocks - 1) % 2], weights, panels, winners);
  for (std::size_t i = 0; i < n_points; ++i) near[i] = winners.certain(i, doubts[i]);
}

}  // namespace lw::LW_ISA
