// Walsh-Hadamard transform in two passes over registers: radix 8 over vectors, four stages inside each vector.
//
// Butterflies are plain additions and subtractions, so the radix changes the order of visits but no bit of the result.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

LW_INLINE void butterfly(F32& low, F32& high) {
  const F32 difference = sub(low, high);
  low = add(low, high);
  high = difference;
}

// The log2(R) stages at distances stride, 2 * stride, ... among R vectors in registers.
template <int R>
LW_INLINE void stages(F32* v) {
  for (int h = 1; h < R; h *= 2) {
    for (int i = 0; i < R; i += 2 * h) {
      for (int j = i; j < i + h; ++j) butterfly(v[j], v[j + h]);
    }
  }
}

// Weights, the stages inside vectors, and the first log2(R) stages between neighbouring vectors.
template <int R>
void first_pass(float* x, std::size_t dim, const float* weights) {
  for (std::size_t base = 0; base < dim; base += R * kLanes) {
    F32 v[R];
    for (int j = 0; j < R; ++j) {
      const std::size_t at = base + static_cast<std::size_t>(j) * kLanes;
      v[j] = hadamard(mul(load(x + at), load(weights + at)));
    }
    stages<R>(v);
    for (int j = 0; j < R; ++j) store(x + base + static_cast<std::size_t>(j) * kLanes, v[j]);
  }
}

// log2(R) further stages, between elements `stride` floats apart.
template <int R>
void pass(float* x, std::size_t dim, std::size_t stride) {
  for (std::size_t base = 0; base < dim; base += R * stride) {
    for (std::size_t i = base; i < base + stride; i += kLanes) {
      F32 v[R];
      for (int j = 0; j < R; ++j) v[j] = load(x + i + static_cast<std::size_t>(j) * stride);
      stages<R>(v);
      for (int j = 0; j < R; ++j) store(x + i + static_cast<std::size_t>(j) * stride, v[j]);
    }
  }
}

void transform_short(float* x, std::size_t dim, const float* weights) {
  for (std::size_t i = 0; i < dim; ++i) x[i] *= weights[i];
  for (std::size_t h = 1; h < dim; h *= 2) {
    for (std::size_t i = 0; i < dim; i += 2 * h) {
      for (std::size_t j = i; j < i + h; ++j) {
        const float low = x[j];
        const float high = x[j + h];
        x[j] = low + high;
        x[j + h] = low - high;
      }
    }
  }
}

void transform(float* x, unsigned log2_dim, const float* weights) {
  const std::size_t dim = std::size_t{1} << log2_dim;
  unsigned done = 4;
  switch ((log2_dim - done) % 3) {
    case 0:
      first_pass<1>(x, dim, weights);
      break;
    case 1:
      first_pass<2>(x, dim, weights);
      done += 1;
      break;
    default:
      first_pass<4>(x, dim, weights);
      done += 2;
  }
  for (; done < log2_dim; done += 3) pass<8>(x, dim, std::size_t{1} << done);
}

}  // namespace

void fwht(float* x, std::size_t n, std::size_t stride, unsigned log2_dim, const float* weights) {
  for (std::size_t i = 0; i < n; ++i) {
    if (log2_dim < 4) {
      transform_short(x + i * stride, std::size_t{1} << log2_dim, weights);
    } else {
      transform(x + i * stride, log2_dim, weights);
    }
  }
}

}  // namespace lw::LW_ISA
