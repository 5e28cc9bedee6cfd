// Vectors side by side, sixteen to a group: how products meet points, centroids, code words and axes.
#pragma once

#include <cstddef>

#include "../kernels.h"

namespace lw {

// Packs the n vectors of `dim` floats at row(0), row(1), ..., less `shift` unless that is null: dimension d of member m
// of group g becomes out[(g * dim + d) * kLanes + m]. The last group is filled up with zeros.
template <class Row>
void pack(std::size_t n, std::size_t dim, const Row& row, const float* shift, float* out) {
  for (std::size_t i = 0; i < (n + kLanes - 1) / kLanes * kLanes; ++i) {
    const float* const x = i < n ? row(i) : nullptr;
    float* const member = out + i / kLanes * dim * kLanes + i % kLanes;
    const auto fill = [&](const auto& coordinate) {
      for (std::size_t d = 0; d < dim; ++d) member[d * kLanes] = coordinate(d);
    };
    if (x == nullptr) {
      fill([](std::size_t) { return 0.0f; });
    } else if (shift == nullptr) {
      fill([&](std::size_t d) { return x[d]; });
    } else {
      fill([&](std::size_t d) { return x[d] - shift[d]; });
    }
  }
}

}  // namespace lw
