// k-means steps: nearest centroid of every point, and the sum of every cluster.
#pragma once

#include "rows.h"

namespace lw {

// labels[i] = argmin_j |x_i - c_j|^2 (by argmax of x . c - |c|^2 / 2), or argmax_j x_i . c_j; the smallest j among
// equals. distances[i] is the canonical distance to that centroid. For squared L2 both sides are shifted by the mean
// centroid first, so that a large common offset costs no accuracy. Returns false if interrupted.
[[nodiscard]] bool assign(const Kernels& kernels, Metric metric, const float* points, std::size_t n, std::size_t dim,
                          const float* centroids, std::size_t k, std::int32_t* labels, float* distances,
                          std::size_t n_threads, const Interrupt& interrupt);

// sums[j] = sum of weights[i] * x_i over the points with labels[i] == j, in the order of i, in double; totals[j] = the
// sum of their weights, counts[j] their number. weights may be null for 1. Returns false if interrupted.
[[nodiscard]] bool cluster_sums(const float* points, std::size_t n, std::size_t dim, const std::int32_t* labels,
                                const double* weights, std::size_t k, double* sums, double* totals,
                                std::int64_t* counts, std::size_t n_threads, const Interrupt& interrupt);

}  // namespace lw
