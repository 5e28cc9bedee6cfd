// Random orthogonal rotation: three rounds of signs and Walsh-Hadamard transforms.
#pragma once

#include "../kernels.h"
#include "threads.h"

namespace lw {

// A dimension that is no power of two is cut into its binary digits: 384 = 256 + 128. Between rounds the coordinates
// are permuted, `chunk` at a time, by a stride coprime to their number: each transform of the next round then holds
// its share of every transform of the last, and no padding is paid for. A power of two needs no permutation.
struct Rotation {
  static constexpr std::size_t kRounds = 3;

  std::size_t dim;
  std::size_t chunk;     // floats that travel together; divides dim
  std::size_t stride;    // chunk i of a round's output comes from chunk (i * stride) % (dim / chunk)
  const float* weights;  // [kRounds][dim]: sign / sqrt(transform's length)

  // An upper bound of |computed - exact| / |x|: each stage and the weights round once, relative to the norm.
  double error_bound() const;
};

// y <- R (x - center) for one vector; center may be null, y must not overlap x, scratch holds dim floats.
void rotate(const Kernels& kernels, const Rotation& rotation, const float* center, const float* x, float* y,
            float* scratch);

enum class RotateOutcome { kRotated, kInterrupted, kNotFinite };

// y <- R x for n vectors, in parallel. A vector with NaN or infinities, or so long that it could overflow, ends the
// work: y is then undefined. Looking at each vector just before it is rotated saves a pass over memory.
[[nodiscard]] RotateOutcome rotate_all(const Kernels& kernels, const Rotation& rotation, const float* x, std::size_t n,
                                       float* y, std::size_t n_threads, const Interrupt& interrupt);

// x <- R^T y, as rotate_all.
[[nodiscard]] RotateOutcome rotate_back_all(const Kernels& kernels, const Rotation& rotation, const float* y,
                                            std::size_t n, float* x, std::size_t n_threads, const Interrupt& interrupt);

}  // namespace lw
