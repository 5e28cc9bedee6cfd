// Points times centroids in register tiles with the argmax fused: no [n, k] matrix ever exists.
//
// A tile's accumulators start at the bias and run over all dimensions before they leave their registers, so each score
// is one chain and the tile's shape cannot change a bit. A panel of sixteen centroids has one centroid per lane; every
// point keeps sixteen running winners, one per lane, that are compared with each other once at the end. The runner-up
// tells whether rounding may have decided.
#include "winners.h"

namespace lw::LW_ISA {
namespace {

// Up to N panels that meet points together.
template <int N>
struct Some {
  const float* rows[N];
  const float* bias[N];
  std::int32_t ids[N];

  LW_INLINE Some(const Panels& panels, std::size_t first, std::size_t dim) {
    for (int j = 0; j < N; ++j) {
      const std::size_t id = panel_id(panels, first + static_cast<std::size_t>(j));
      rows[j] = panels.rows + id * dim * kLanes;
      bias[j] = panels.bias + id * kLanes;
      ids[j] = static_cast<std::int32_t>(id);
    }
  }
};

template <int P, int N>
LW_INLINE void tile(const float* points, const Some<N>& panels, std::size_t dim, const Winners& winners,
                    std::size_t first) {
  F32 score[P][N];
  for (int j = 0; j < N; ++j) {
    const F32 start = load(panels.bias[j]);
    for (int i = 0; i < P; ++i) score[i][j] = start;
  }
  for (std::size_t d = 0; d < dim; ++d) {
    F32 c[N];
    for (int j = 0; j < N; ++j) c[j] = load(panels.rows[j] + d * kLanes);
    for (int i = 0; i < P; ++i) {
      const F32 x = set(points[d * kLanes + static_cast<std::size_t>(i)]);
      for (int j = 0; j < N; ++j) score[i][j] = fma(x, c[j], score[i][j]);
    }
  }
  for (int i = 0; i < P; ++i) {
    const std::size_t point = first + static_cast<std::size_t>(i);
    float* const winner_score = winners.score + point * kLanes;
    std::int32_t* const winner_panel = winners.panel + point * kLanes;
    float* const runner_up = winners.second + point * kLanes;
    F32 s = load(winner_score);
    I32 p = load_i32(winner_panel);
    F32 r = load(runner_up);
    for (int j = 0; j < N; ++j) {
      const Mask better = greater(score[i][j], s);
      const F32 loser = select(better, s, score[i][j]);
      r = select(greater(loser, r), loser, r);
      s = select(better, score[i][j], s);
      p = select(better, set_i32(panels.ids[j]), p);
    }
    store(winner_score, s);
    store(winner_panel, p);
    store(runner_up, r);
  }
}

// All sixteen points of a group, in tiles of at most P.
template <int P, int N>
LW_INLINE void group(const float* points, const Some<N>& panels, std::size_t dim, const Winners& winners,
                     std::size_t first) {
  constexpr int kRest = static_cast<int>(kLanes) % P;
  std::size_t i = 0;
  for (; i + P <= kLanes; i += P) tile<P, N>(points + i, panels, dim, winners, first + i);
  if constexpr (kRest != 0) tile<kRest, N>(points + i, panels, dim, winners, first + i);
}

}  // namespace

void assign(const float* points, std::size_t n_groups, const Panels& panels, std::size_t dim, void* scratch,
            std::int32_t* labels, float* scores, float* runner_ups) {
  const std::size_t n_points = n_groups * kLanes;
  const Winners winners(scratch, n_points);
  winners.clear(n_points);
  // Panels outside, groups inside: a panel stays in the first-level cache while all points pass it.
  std::size_t at = 0;
  for (; at + kTilePanels <= panels.n; at += kTilePanels) {
    const Some<kTilePanels> some(panels, at, dim);
    for (std::size_t g = 0; g < n_groups; ++g) {
      group<kTilePoints, kTilePanels>(points + g * dim * kLanes, some, dim, winners, g * kLanes);
    }
  }
  for (; at < panels.n; ++at) {
    const Some<1> one(panels, at, dim);
    for (std::size_t g = 0; g < n_groups; ++g) {
      group<kTilePoints, 1>(points + g * dim * kLanes, one, dim, winners, g * kLanes);
    }
  }
  for (std::size_t i = 0; i < n_points; ++i) {
    const float* const best = winners.score + i * kLanes;
    const std::int32_t* const won = winners.panel + i * kLanes;
    const float* const second = winners.second + i * kLanes;
    float score = best[0];
    float runner_up = second[0];
    std::int32_t label = won[0] * static_cast<std::int32_t>(kLanes);
    for (std::int32_t lane = 1; lane < static_cast<std::int32_t>(kLanes); ++lane) {
      const float other = best[lane];
      const std::int32_t candidate = won[lane] * static_cast<std::int32_t>(kLanes) + lane;
      const bool wins = other > score || (other == score && candidate < label);
      const float loser = wins ? score : other;
      if (loser > runner_up) runner_up = loser;
      if (second[lane] > runner_up) runner_up = second[lane];
      if (wins) {
        score = other;
        label = candidate;
      }
    }
    labels[i] = label;
    scores[i] = score;
    runner_ups[i] = runner_up;
  }
}

}  // namespace lw::LW_ISA
