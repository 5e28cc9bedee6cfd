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
  const float* const x = points + first * dim;
  LW_UNROLL_4
  for (std::size_t d = 0; d < dim; ++d) {
    F32 c[N];
    for (int j = 0; j < N; ++j) c[j] = load(panels.rows[j] + d * kLanes);
    for (int i = 0; i < P; ++i) {
      const F32 value = set(x[static_cast<std::size_t>(i) * dim + d]);
      for (int j = 0; j < N; ++j) score[i][j] = fma(value, c[j], score[i][j]);
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
      r = max(r, min(s, score[i][j]));
      s = max(s, score[i][j]);
      p = select(better, set_i32(panels.ids[j]), p);
    }
    store(winner_score, s);
    store(winner_panel, p);
    store(runner_up, r);
  }
}

// All points with the next N panels.
template <int N>
LW_INLINE void all_points(const float* points, std::size_t n, const Panels& panels, std::size_t at, std::size_t dim,
                          const Winners& winners) {
  const Some<N> some(panels, at, dim);
  std::size_t i = 0;
  for (; i + kTilePoints <= n; i += kTilePoints) tile<kTilePoints, N>(points, some, dim, winners, i);
  constexpr int kFewer = 4;
  if constexpr (kTilePoints > kFewer) {
    for (; i + kFewer <= n; i += kFewer) tile<kFewer, N>(points, some, dim, winners, i);
  }
  for (; i < n; ++i) tile<1, N>(points, some, dim, winners, i);
}

// Of a set that is not empty.
LW_INLINE std::size_t lowest(std::uint32_t lanes) {
  return count(static_cast<std::uint16_t>((lanes ^ (lanes - 1)) >> 1));
}

}  // namespace

void assign(const float* points, std::size_t n, const Panels& panels, std::size_t dim, void* scratch,
            std::int32_t* labels, float* scores, float* runner_ups) {
  const Winners winners(scratch, n);
  winners.clear(n);
  // Panels outside, points inside: a panel stays in the first-level cache while all points pass it. The last panels are
  // dealt out so that none is left alone if that can be avoided.
  constexpr std::size_t kMost = kAssignPanels;
  std::size_t at = 0;
  while (at < panels.n) {
    const std::size_t left = panels.n - at;
    if (left >= kMost && (left != kMost + 1 || kMost == 1)) {
      all_points<kAssignPanels>(points, n, panels, at, dim, winners);
      at += kMost;
    } else if (left >= 2) {
      all_points<2>(points, n, panels, at, dim, winners);
      at += 2;
    } else {
      all_points<1>(points, n, panels, at, dim, winners);
      at += 1;
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    const float* const best = winners.score + i * kLanes;
    const std::int32_t* const won = winners.panel + i * kLanes;
    const F32 all = load(best);
    const F32 seconds = load(winners.second + i * kLanes);
    const Mask behind = greater(set(largest(all)), all);
    std::uint32_t ahead = ~bits(behind) & 0xFFFF;
    const std::size_t winner = lowest(ahead);
    std::int32_t label = won[winner] * static_cast<std::int32_t>(kLanes) + static_cast<std::int32_t>(winner);
    ahead &= ahead - 1;
    // Of several lanes that hold the best the smallest label wins, and another is the runner-up.
    const float runner_up = ahead != 0 ? best[winner] : largest(max(seconds, select(behind, all, seconds)));
    for (; ahead != 0; ahead &= ahead - 1) {
      const std::size_t lane = lowest(ahead);
      const std::int32_t other = won[lane] * static_cast<std::int32_t>(kLanes) + static_cast<std::int32_t>(lane);
      label = other < label ? other : label;
    }
    labels[i] = label;
    // Maxima of zeros have either sign.
    scores[i] = best[winner] + 0.0f;
    runner_ups[i] = runner_up + 0.0f;
  }
}

}  // namespace lw::LW_ISA
