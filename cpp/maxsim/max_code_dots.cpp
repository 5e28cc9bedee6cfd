// The largest product of each query token with the tokens of a document, by byte codes: a bound for max_dots at a
// quarter of the memory.
//
// As max_dots, with a quad of dimensions in place of one. Products are whole numbers and exact.
#include <cstring>
#include <limits>

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

template <int P, int N>
LW_INLINE void tile(const TokenCodes& rows, std::size_t first, std::size_t n_quads, const std::int8_t* panels,
                    F32* best) {
  I32 product[P][N];
  for (int i = 0; i < P; ++i) {
    const std::int32_t unbiased = -kCodeBias * rows.sums[first + static_cast<std::size_t>(i)];
    for (int j = 0; j < N; ++j) product[i][j] = set_i32(unbiased);
  }
  const std::int8_t* const codes = rows.codes + first * n_quads * 4;
  for (std::size_t d = 0; d < n_quads; ++d) {
    for (int i = 0; i < P; ++i) {
      std::int32_t quad;
      std::memcpy(&quad, codes + (static_cast<std::size_t>(i) * n_quads + d) * 4, sizeof(quad));
      for (int j = 0; j < N; ++j) {
        product[i][j] = dot4(product[i][j], panels + (static_cast<std::size_t>(j) * n_quads + d) * 4 * kLanes, quad);
      }
    }
  }
  for (int i = 0; i < P; ++i) {
    const F32 scale = set(rows.scales[first + static_cast<std::size_t>(i)]);
    for (int j = 0; j < N; ++j) {
      const F32 scaled = mul(to_f32(product[i][j]), scale);
      best[j] = select(greater(scaled, best[j]), scaled, best[j]);
    }
  }
}

// Rows in tiles of P, the rest in ever smaller ones.
template <int P, int N>
LW_INLINE void all_rows(const TokenCodes& rows, std::size_t first, std::size_t n, std::size_t n_quads,
                        const std::int8_t* panels, F32* best) {
  for (; first + P <= n; first += P) tile<P, N>(rows, first, n_quads, panels, best);
  if constexpr (P > 1) all_rows<P / 2, N>(rows, first, n, n_quads, panels, best);
}

template <int P, int N>
LW_INLINE void some_panels(const TokenCodes& rows, std::size_t n, std::size_t n_quads, const std::int8_t* panels,
                           float* out) {
  constexpr float nothing = -std::numeric_limits<float>::infinity();
  F32 best[N];
  for (int j = 0; j < N; ++j) best[j] = set(nothing);
  all_rows<P, N>(rows, 0, n, n_quads, panels, best);
  for (int j = 0; j < N; ++j) store(out + static_cast<std::size_t>(j) * kLanes, best[j]);
}

}  // namespace

void max_code_dots(const TokenCodes& rows, std::size_t n, std::size_t n_quads, const std::int8_t* panels,
                   std::size_t n_panels, float* out) {
  const std::size_t stride = n_quads * 4 * kLanes;
  std::size_t p = 0;
  for (; p + kTilePanels <= n_panels; p += kTilePanels) {
    some_panels<kTilePoints, kTilePanels>(rows, n, n_quads, panels + p * stride, out + p * kLanes);
  }
  // One panel alone: as many chains, of more rows.
  for (; p < n_panels; ++p) {
    some_panels<kTilePoints * kTilePanels, 1>(rows, n, n_quads, panels + p * stride, out + p * kLanes);
  }
}

}  // namespace lw::LW_ISA
