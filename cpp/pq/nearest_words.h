// The nearest of a few hundred short code words by float products, sixteen points side by side.
//
// Sub-vectors have a handful of dimensions. With a point in each lane every lane keeps its own winner, and nothing is
// left to be compared when the words have passed; with words in the lanes that would cost more than the products.
#pragma once

#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

// Words that are met together, so that their chains hide each other's latency.
constexpr int kTogether = 4;

// Groups of points that share the load of a word, as many as there are registers for.
constexpr int kGroups = kTilePoints * kTilePanels >= 2 * kTogether ? kTilePoints * kTilePanels / kTogether : 1;

template <int G>
LW_INLINE void nearest(const float* points, std::size_t dim, const float* words, const float* bias, std::size_t n_words,
                       std::int32_t* labels) {
  F32 best[G];
  I32 label[G];
  for (int g = 0; g < G; ++g) {
    best[g] = set(-3.402823466e+38f);
    label[g] = set_i32(0);
  }
  for (std::size_t first = 0; first < n_words; first += kTogether) {
    const float* const word = words + first * dim;
    F32 score[kTogether][G];
    for (int j = 0; j < kTogether; ++j) {
      for (int g = 0; g < G; ++g) score[j][g] = set(bias[first + static_cast<std::size_t>(j)]);
    }
    for (std::size_t d = 0; d < dim; ++d) {
      F32 x[G];
      for (int g = 0; g < G; ++g) x[g] = load(points + (static_cast<std::size_t>(g) * dim + d) * kLanes);
      for (int j = 0; j < kTogether; ++j) {
        const F32 w = set(word[static_cast<std::size_t>(j) * dim + d]);
        for (int g = 0; g < G; ++g) score[j][g] = fma(x[g], w, score[j][g]);
      }
    }
    for (int j = 0; j < kTogether; ++j) {
      const I32 number = set_i32(static_cast<std::int32_t>(first) + j);
      for (int g = 0; g < G; ++g) {
        const Mask better = greater(score[j][g], best[g]);
        best[g] = select(better, score[j][g], best[g]);
        label[g] = select(better, number, label[g]);
      }
    }
  }
  for (int g = 0; g < G; ++g) {
    store(labels + static_cast<std::size_t>(g) * kLanes, label[g]);
  }
}

// All groups, as Kernels::nearest_words has them.
LW_INLINE void nearest_by_floats(const float* points, std::size_t n_groups, std::size_t dim, const float* words,
                                 const float* bias, std::size_t n_words, std::int32_t* labels) {
  std::size_t g = 0;
  for (; g + kGroups <= n_groups; g += kGroups) {
    nearest<kGroups>(points + g * dim * kLanes, dim, words, bias, n_words, labels + g * kLanes);
  }
  for (; g < n_groups; ++g) {
    nearest<1>(points + g * dim * kLanes, dim, words, bias, n_words, labels + g * kLanes);
  }
}

}  // namespace
}  // namespace lw::LW_ISA
