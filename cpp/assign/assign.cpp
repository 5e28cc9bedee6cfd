// Points times centroids in register tiles with the argmax fused: no [n, k] matrix ever exists.
//
// A tile's accumulators start at the bias and run over all dimensions before they leave their registers, so each score
// is one chain and the tile's shape cannot change a bit. A panel of sixteen centroids has one centroid per lane; every
// point keeps sixteen running winners, one per lane, that are compared with each other once at the end.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

template <int P, int N>
LW_INLINE void tile(const float* points, const float* centroids, const float* bias, std::size_t dim, std::int32_t panel,
                    float* best_score, std::int32_t* best_panel) {
  F32 score[P][N];
  for (int j = 0; j < N; ++j) {
    const F32 start = load(bias + static_cast<std::size_t>(j) * kLanes);
    for (int i = 0; i < P; ++i) score[i][j] = start;
  }
  for (std::size_t d = 0; d < dim; ++d) {
    F32 c[N];
    for (int j = 0; j < N; ++j) c[j] = load(centroids + (static_cast<std::size_t>(j) * dim + d) * kLanes);
    for (int i = 0; i < P; ++i) {
      const F32 x = set(points[d * kLanes + static_cast<std::size_t>(i)]);
      for (int j = 0; j < N; ++j) score[i][j] = fma(x, c[j], score[i][j]);
    }
  }
  for (int i = 0; i < P; ++i) {
    float* const winner_score = best_score + static_cast<std::size_t>(i) * kLanes;
    std::int32_t* const winner_panel = best_panel + static_cast<std::size_t>(i) * kLanes;
    F32 s = load(winner_score);
    I32 p = load_i32(winner_panel);
    for (int j = 0; j < N; ++j) {
      const Mask better = greater(score[i][j], s);
      s = select(better, score[i][j], s);
      p = select(better, set_i32(panel + j), p);
    }
    store(winner_score, s);
    store(winner_panel, p);
  }
}

// All sixteen points of a group, in tiles of at most P.
template <int P, int N>
LW_INLINE void group(const float* points, const float* centroids, const float* bias, std::size_t dim,
                     std::int32_t panel, float* best_score, std::int32_t* best_panel) {
  constexpr int kRest = static_cast<int>(kLanes) % P;
  std::size_t i = 0;
  for (; i + P <= kLanes; i += P) {
    tile<P, N>(points + i, centroids, bias, dim, panel, best_score + i * kLanes, best_panel + i * kLanes);
  }
  if constexpr (kRest != 0) {
    tile<kRest, N>(points + i, centroids, bias, dim, panel, best_score + i * kLanes, best_panel + i * kLanes);
  }
}

}  // namespace

void assign(const float* points, std::size_t n_groups, const float* centroids, const float* bias, std::size_t n_panels,
            std::size_t dim, void* scratch, std::int32_t* labels, float* scores) {
  const std::size_t n_points = n_groups * kLanes;
  float* const best_score = static_cast<float*>(scratch);
  std::int32_t* const best_panel = reinterpret_cast<std::int32_t*>(best_score + n_points * kLanes);
  const float lowest = -__builtin_inff();
  for (std::size_t i = 0; i < n_points * kLanes; i += kLanes) {
    store(best_score + i, set(lowest));
    store(best_panel + i, set_i32(0));
  }
  // Panels outside, groups inside: a panel stays in the first-level cache while all points pass it.
  std::size_t panel = 0;
  for (; panel + kTilePanels <= n_panels; panel += kTilePanels) {
    for (std::size_t g = 0; g < n_groups; ++g) {
      group<kTilePoints, kTilePanels>(points + g * dim * kLanes, centroids + panel * dim * kLanes,
                                      bias + panel * kLanes, dim, static_cast<std::int32_t>(panel),
                                      best_score + g * kLanes * kLanes, best_panel + g * kLanes * kLanes);
    }
  }
  for (; panel < n_panels; ++panel) {
    for (std::size_t g = 0; g < n_groups; ++g) {
      group<kTilePoints, 1>(points + g * dim * kLanes, centroids + panel * dim * kLanes, bias + panel * kLanes, dim,
                            static_cast<std::int32_t>(panel), best_score + g * kLanes * kLanes,
                            best_panel + g * kLanes * kLanes);
    }
  }
  for (std::size_t i = 0; i < n_points; ++i) {
    const float* const s = best_score + i * kLanes;
    const std::int32_t* const p = best_panel + i * kLanes;
    float score = s[0];
    std::int32_t label = p[0] * static_cast<std::int32_t>(kLanes);
    for (std::int32_t lane = 1; lane < static_cast<std::int32_t>(kLanes); ++lane) {
      const std::int32_t candidate = p[lane] * static_cast<std::int32_t>(kLanes) + lane;
      if (s[lane] > score || (s[lane] == score && candidate < label)) {
        score = s[lane];
        label = candidate;
      }
    }
    labels[i] = label;
    scores[i] = score;
  }
}

}  // namespace lw::LW_ISA
