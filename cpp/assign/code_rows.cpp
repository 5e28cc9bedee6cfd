// Rows in two bytes a coordinate, each row with a scale of its own: what centroids are compared with.
#include "code_layout.h"

namespace lw::LW_ISA {
namespace {

// Sixteen coordinates from d on, shifted; zeros behind the last.
LW_INLINE F32 shifted(const float* row, const float* shift, std::size_t d, std::size_t dim) {
  if (d + kLanes <= dim) return sub(load(row + d), load(shift + d));
  return d < dim ? sub(load_first(row + d, dim - d), load_first(shift + d, dim - d)) : set(0.0f);
}

}  // namespace

void code_rows(const float* rows, std::size_t n, std::size_t dim, const float* shift, float least, std::size_t stride,
               std::int8_t* codes, RowCode* facts) {
  for (std::size_t i = 0; i < n; ++i) {
    const float* const row = rows + i * dim;
    F32 most = set(least);
    F32 norm2 = set(0.0f);
    for (std::size_t d = 0; d < dim; d += kLanes) {
      const F32 x = shifted(row, shift, d, dim);
      most = max(most, max(x, sub(set(0.0f), x)));
      norm2 = fma(x, x, norm2);
    }
    const float top = largest(most);
    // Below this the reciprocal might overflow: such a row has no codes.
    const bool tiny = !(top > 0x1p-100f);
    const float scale = tiny ? 0.0f : top / 127.0f;
    const F32 inverse = set(tiny ? 0.0f : 127.0f / top);
    F32 coarse2 = set(0.0f);
    F32 residual2 = set(0.0f);
    for (std::size_t d = 0; d < stride; d += kStretch) {
      std::int8_t* const coarse = codes + code_place(i, d, stride);
      for (std::size_t j = 0; j < kStretch; j += kLanes) {
        // In steps of the coarse code.
        const F32 x = mul(shifted(row, shift, d + j, dim), inverse);
        const I32 first = round(x);
        const F32 left = sub(x, to_f32(first));
        const I32 second = round(mul(left, set(kFineSteps)));
        const F32 rest = fma(to_f32(second), set(-1.0f / kFineSteps), left);
        coarse2 = fma(left, left, coarse2);
        residual2 = fma(rest, rest, residual2);
        store_i8(coarse + j, first);
        store_i8(coarse + kStretchBytes + j, second);
      }
    }
    facts[i] = {scale, sum(norm2), sum(coarse2), sum(residual2)};
  }
}

}  // namespace lw::LW_ISA
