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

// The log2(R) stages at distances H, 2H, ... among R vectors. A template for each stage, because a loop over stages is
// not unrolled and would keep the vectors in memory instead of registers.
template <int R, int H = 1>
LW_INLINE void stages(F32 (&v)[R]) {
  if constexpr (H < R) {
    for (int i = 0; i < R / 2; ++i) {
      const int low = i / H * 2 * H + i % H;
      butterfly(v[low], v[low + H]);
    }
    stages<R, 2 * H>(v);
  }
}

// Weights, the stages inside vectors, and the first log2(R) stages between neighbouring vectors.
template <int R>
void first_pass(const float* in, float* out, std::size_t dim, const float* weights) {
  for (std::size_t base = 0; base < dim; base += R * kLanes) {
    F32 v[R];
    for (int j = 0; j < R; ++j) {
      const std::size_t at = base + static_cast<std::size_t>(j) * kLanes;
      v[j] = hadamard(mul(load(in + at), load(weights + at)));
    }
    stages(v);
    for (int j = 0; j < R; ++j) store(out + base + static_cast<std::size_t>(j) * kLanes, v[j]);
  }
}

// log2(R) further stages, between elements `stride` floats apart.
template <int R>
void pass(float* x, std::size_t dim, std::size_t stride) {
  for (std::size_t base = 0; base < dim; base += R * stride) {
    for (std::size_t i = base; i < base + stride; i += kLanes) {
      F32 v[R];
      for (int j = 0; j < R; ++j) v[j] = load(x + i + static_cast<std::size_t>(j) * stride);
      stages(v);
      for (int j = 0; j < R; ++j) store(x + i + static_cast<std::size_t>(j) * stride, v[j]);
    }
  }
}

void transform_short(const float* in, float* out, std::size_t dim, const float* weights) {
  for (std::size_t i = 0; i < dim; ++i) out[i] = in[i] * weights[i];
  for (std::size_t h = 1; h < dim; h *= 2) {
    for (std::size_t i = 0; i < dim; i += 2 * h) {
      for (std::size_t j = i; j < i + h; ++j) {
        const float low = out[j];
        const float high = out[j + h];
        out[j] = low + high;
        out[j + h] = low - high;
      }
    }
  }
}

void transform(const float* in, float* out, unsigned log2_dim, const float* weights) {
  const std::size_t dim = std::size_t{1} << log2_dim;
  // The first pass takes what the passes of three stages leave over, or three stages itself.
  unsigned done = 4;
  if (log2_dim == 4) {
    first_pass<1>(in, out, dim, weights);
  } else if ((log2_dim - 4) % 3 == 0) {
    first_pass<8>(in, out, dim, weights);
    done += 3;
  } else if ((log2_dim - 4) % 3 == 1) {
    first_pass<2>(in, out, dim, weights);
    done += 1;
  } else {
    first_pass<4>(in, out, dim, weights);
    done += 2;
  }
  for (; done < log2_dim; done += 3) pass<8>(out, dim, std::size_t{1} << done);
}

}  // namespace

void fwht(const float* in, float* out, std::size_t n, std::size_t stride, unsigned log2_dim, const float* weights) {
  for (std::size_t i = 0; i < n; ++i) {
    if (log2_dim < 4) {
      transform_short(in + i * stride, out + i * stride, std::size_t{1} << log2_dim, weights);
    } else {
      transform(in + i * stride, out + i * stride, log2_dim, weights);
    }
  }
}

}  // namespace lw::LW_ISA
