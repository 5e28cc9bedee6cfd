// k-means steps: nearest centroid of every point, and the sum of every cluster.
#pragma once

#include "rows.h"

namespace lw {

// labels[i] is the centroid of the least canonical distance to point i, the smallest of several, and distances[i] that
// distance; distances may be null. Tiled products find it (argmax of x . c - |c|^2 / 2 with both sides shifted by the
// mean centroid, or of x . c), of codes where the kernels have instructions for them and of floats otherwise; a point
// whose best scores are too near for these to tell apart is settled on the distances. Returns false if interrupted.
[[nodiscard]] bool assign(const Kernels& kernels, Metric metric, const float* points, std::size_t n, std::size_t dim,
                          const float* centroids, std::size_t k, std::int32_t* labels, float* distances,
                          std::size_t n_threads, const Interrupt& interrupt);

// The same for squared L2, where guesses[i] is a centroid that is likely near to point i: the last one, as a rule.
// Where centroids lie in groups, points do not meet those that are too far from their guess to be nearer; `share` is
// the part of the panels that points have met.
[[nodiscard]] bool reassign(const Kernels& kernels, const float* points, std::size_t n, std::size_t dim,
                            const float* centroids, std::size_t k, const std::int32_t* guesses, std::int32_t* labels,
                            float* distances, std::size_t n_threads, const Interrupt& interrupt, double& share);

// sums[j] = sum of weights[i] * x_i over the points with labels[i] == j, in the order of i, in double; totals[j] = the
// sum of their weights, counts[j] their number. weights may be null for 1. Returns false if interrupted.
[[nodiscard]] bool cluster_sums(const Kernels& kernels, const float* points, std::size_t n, std::size_t dim,
                                const std::int32_t* labels, const double* weights, std::size_t k, double* sums,
                                double* totals, std::int64_t* counts, std::size_t n_threads,
                                const Interrupt& interrupt);

}  // namespace lw
