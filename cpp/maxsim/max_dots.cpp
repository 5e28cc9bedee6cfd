// The largest product of each query token with the tokens of a document: query tokens in the lanes, document tokens in
// register tiles as they lie.
//
// A lane keeps its own maximum, so that lanes never meet and a document needs no packing. Each sum is one chain over
// the dimensions, and rows are compared in their order, so that the tile's shape cannot change a bit.
#include <limits>

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

template <int P, int N>
LW_INLINE void tile(const float* rows, std::size_t dim, const float* panels, F32* best) {
  F32 product[P][N];
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < N; ++j) product[i][j] = set(0.0f);
  }
  for (std::size_t d = 0; d < dim; ++d) {
    F32 q[N];
    for (int j = 0; j < N; ++j) q[j] = load(panels + (static_cast<std::size_t>(j) * dim + d) * kLanes);
    for (int i = 0; i < P; ++i) {
      const F32 x = set(rows[static_cast<std::size_t>(i) * dim + d]);
      for (int j = 0; j < N; ++j) product[i][j] = fma(x, q[j], product[i][j]);
    }
  }
  // Not max: of two zeros an ISA may prefer the positive one.
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < N; ++j) best[j] = select(greater(product[i][j], best[j]), product[i][j], best[j]);
  }
}

// Rows in tiles of P, the rest in ever smaller ones.
template <int P, int N>
LW_INLINE void all_rows(const float* rows, std::size_t n, std::size_t dim, const float* panels, F32* best) {
  std::size_t i = 0;
  for (; i + P <= n; i += P) tile<P, N>(rows + i * dim, dim, panels, best);
  if constexpr (P > 1) all_rows<P / 2, N>(rows + i * dim, n - i, dim, panels, best);
}

template <int P, int N>
LW_INLINE void some_panels(const float* rows, std::size_t n, std::size_t dim, const float* panels, float* out) {
  constexpr float nothing = -std::numeric_limits<float>::infinity();
  F32 best[N];
  for (int j = 0; j < N; ++j) best[j] = set(nothing);
  all_rows<P, N>(rows, n, dim, panels, best);
  for (int j = 0; j < N; ++j) store(out + static_cast<std::size_t>(j) * kLanes, best[j]);
}

}  // namespace

void max_dots(const float* rows, std::size_t n, std::size_t dim, const float* panels, std::size_t n_panels,
              float* out) {
  std::size_t p = 0;
  for (; p + kTilePanels <= n_panels; p += kTilePanels) {
    some_panels<kTilePoints, kTilePanels>(rows, n, dim, panels + p * dim * kLanes, out + p * kLanes);
  }
  // One panel alone: as many chains, of more rows.
  for (; p < n_panels; ++p) {
    some_panels<kTilePoints * kTilePanels, 1>(rows, n, dim, panels + p * dim * kLanes, out + p * kLanes);
  }
}

}  // namespace lw::LW_ISA
