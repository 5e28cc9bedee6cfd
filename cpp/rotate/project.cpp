// Vectors times a matrix in register tiles: a rotation that was learned from the data.
//
// Sums run in chains of 64 dimensions that are then added up: rounding grows with the chains' length and number, not
// with the dimension, and the tile's shape cannot change a bit.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kChain = 64;

template <int P, int N>
LW_INLINE void tile(const float* x, std::size_t dim, const float* panels, std::size_t out_stride, float* out) {
  for (std::size_t begin = 0; begin < dim; begin += kChain) {
    const std::size_t end = begin + kChain < dim ? begin + kChain : dim;
    F32 chain[P][N];
    for (int i = 0; i < P; ++i) {
      for (int j = 0; j < N; ++j) chain[i][j] = set(0.0f);
    }
    for (std::size_t d = begin; d < end; ++d) {
      F32 m[N];
      for (int j = 0; j < N; ++j) m[j] = load(panels + (static_cast<std::size_t>(j) * dim + d) * kLanes);
      for (int i = 0; i < P; ++i) {
        const F32 value = set(x[static_cast<std::size_t>(i) * dim + d]);
        for (int j = 0; j < N; ++j) chain[i][j] = fma(value, m[j], chain[i][j]);
      }
    }
    for (int i = 0; i < P; ++i) {
      for (int j = 0; j < N; ++j) {
        float* const at = out + static_cast<std::size_t>(i) * out_stride + static_cast<std::size_t>(j) * kLanes;
        store(at, begin == 0 ? chain[i][j] : add(load(at), chain[i][j]));
      }
    }
  }
}

template <int N>
LW_INLINE void all_vectors(const float* x, std::size_t n, std::size_t dim, const float* panels, std::size_t out_stride,
                           float* out) {
  std::size_t i = 0;
  for (; i + kTilePoints <= n; i += kTilePoints) {
    tile<kTilePoints, N>(x + i * dim, dim, panels, out_stride, out + i * out_stride);
  }
  for (; i < n; ++i) tile<1, N>(x + i * dim, dim, panels, out_stride, out + i * out_stride);
}

}  // namespace

void project(const float* x, std::size_t n, std::size_t dim, const float* panels, std::size_t n_panels, float* out) {
  const std::size_t out_stride = n_panels * kLanes;
  std::size_t p = 0;
  if (n == 1) {
    // One vector alone has no other chains to hide its latency behind.
    constexpr int kWide = 4;
    for (; p + kWide <= n_panels; p += kWide) {
      tile<1, kWide>(x, dim, panels + p * dim * kLanes, out_stride, out + p * kLanes);
    }
  }
  for (; p + kTilePanels <= n_panels; p += kTilePanels) {
    all_vectors<kTilePanels>(x, n, dim, panels + p * dim * kLanes, out_stride, out + p * kLanes);
  }
  for (; p < n_panels; ++p) all_vectors<1>(x, n, dim, panels + p * dim * kLanes, out_stride, out + p * kLanes);
}

}  // namespace lw::LW_ISA
