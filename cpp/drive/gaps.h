// Gaps between centroids: which of them a point need not meet, because it is near to another one.
//
// By the triangle inequality no centroid c can be nearer to x than a is, if |a - c| >= 2 |x - a| (Elkan, ICML 2003).
// Centroids that lie together share a panel of kLanes, so that whole panels are out at once.
#pragma once

#include <vector>

#include "../kernels.h"
#include "threads.h"

namespace lw {

class Gaps {
 public:
  // Whether it takes little time and memory beside an assignment of n points.
  static bool pay(std::size_t n, std::size_t dim, std::size_t k);

  // finished is false if it was interrupted.
  Gaps(const Kernels& kernels, const float* centroids, std::size_t k, std::size_t dim, std::size_t n_threads,
       const Interrupt& interrupt, bool& finished);

  // Centroids in the order in which they fill panels.
  const std::vector<std::int64_t>& order() const { return order_; }
  // Where each centroid stands in it.
  const std::vector<std::uint32_t>& place() const { return place_; }
  std::size_t n_panels() const { return n_panels_; }

  // The panels that at most kLanes points may find a nearer centroid in, ascending, of whom point i is at the squared
  // canonical distance d2[i] from centroid a[i]. Returns how many: one at least, that of a[i].
  std::size_t panels_to_meet(const std::int32_t* a, const float* d2, std::size_t n_points, std::uint32_t* panels) const;

 private:
  std::size_t k_, n_panels_;
  double error_;  // of a squared canonical distance, relative
  std::vector<std::int64_t> order_;
  std::vector<std::uint32_t> place_;
  std::vector<float> gaps_;  // [k][n_panels]: no member of the panel is nearer to the centroid
};

}  // namespace lw
