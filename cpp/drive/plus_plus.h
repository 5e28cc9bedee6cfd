// k-means++ with trials: the start of k-means.
#pragma once

#include "rows.h"

namespace lw {

// Chooses centroids [begin, end) among n points; those before `begin` are chosen[0, begin), and nearest[i] is the
// canonical squared distance of point i to the nearest of them (infinite without any). The first is drawn in proportion
// to the weights, at uniforms[0]. Each next one is the best of n_trials points that are drawn in proportion to weight
// times nearest, at uniforms[1 + (j - 1) * n_trials + t]: the one that leaves the least sum of these, the first of
// equals. If nothing is left of that sum, the first point that is not yet chosen. weights may be null for 1. Returns
// false if interrupted.
[[nodiscard]] bool plus_plus(const Kernels& kernels, const float* points, std::size_t n, std::size_t dim,
                             const double* weights, const double* uniforms, std::size_t n_trials, std::size_t begin,
                             std::size_t end, std::int64_t* chosen, float* nearest, std::size_t n_threads,
                             const Interrupt& interrupt);

}  // namespace lw
