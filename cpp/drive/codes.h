// The scan of codes, bytes or, behind the front, half bytes: certified intervals propose, exact rows settle.
//
// A row x is centred, projected on the store's axes (y = M (x - center)) and coded:
// y_d = scale_d * code_d + r_d. For a query z = M (q - center), Cauchy-Schwarz on what the codes do not say, the
// residual r and the dimensions not yet read (the tail t), bounds the product from above:
//   <z, y> <= (product of codes so far) + |z| |r| + |z_t| |y_t|.
// A row whose distance cannot reach the bound even so is gone; the others are scored on their original row. With
// eps0 = inf the answer is therefore that of brute force, bit for bit (docs/design/codes.md has the proof).
//
// A finite eps0 replaces both factors of Cauchy-Schwarz by what is likely: rounding errors are as good as random, and
// the cosine between the tails of a query and its neighbours was learned from the rows.
#pragma once

#include "store.h"

namespace lw {

inline constexpr std::size_t kMostFrontSteps = 4;

// The axes and steps of a code. A "step" is a prefix of dimensions after which candidates are dropped.
struct CodePlan {
  std::size_t dim;
  std::size_t n_front;        // dimensions of the front, a multiple of 4, at least 4
  std::size_t n_steps;        // all of them; the first n_front_steps belong to the front
  std::size_t n_front_steps;  // at most kMostFrontSteps
  const std::uint32_t* ends;  // [n_steps] dimensions, ascending; the front's are multiples of 4 up to n_front, those of
                              // the body lie multiples of body_read() behind n_front, but for the last, which is >= dim
  const float* center;        // [dim]
  const float* panels;        // axes as Kernels::project takes them; null if they are the coordinates
  double distortion;          // how far <Mx, Mz> computed may be off <x, z>, in |x||z|
  const float* scales;        // [dim]
  double front_length;        // a row's residual, as stored, is at least |its front codes| / front_length
  double body_length;         // and |its other codes| / body_length
  double residual;            // of a typical row, as stored
  std::size_t body_bits;      // 8, or 4
  const double* neighbors;    // [n_steps][2], mean and standard deviation of the tail cosine that keeps a neighbour

  // The first dimension of a step.
  std::size_t begin(std::size_t step) const { return step == 0 ? 0 : ends[step - 1]; }
  // Steps whose tails are stored: behind the body's last there is none.
  std::size_t n_tails() const { return n_steps == n_front_steps ? n_steps : n_steps - 1; }
  // Codes of the body that one read of 64 bytes holds.
  std::size_t body_read() const { return body_bits == 8 ? 64 : 128; }
  // Bytes of a row behind the front.
  std::size_t body_stride() const {
    const std::size_t n = ends[n_steps - 1] - n_front;
    return body_bits == 8 ? n : (n + 127) / 128 * 64;
  }
};

// What is stored of the rows at n_positions positions.
struct Codes {
  std::int8_t* fronts[kMostFrontSteps];  // as CodeFront::codes, and 1,024 bytes to read beyond the end of each
  std::int8_t* body;                     // [positions * body_stride], and 64 bytes to read beyond the end
  float* base;                           // [positions]
  std::uint16_t* residuals;              // [positions], bfloat16
  std::uint16_t* tails;                  // [n_tails][tail_stride], bfloat16
  std::size_t tail_stride;
};

// Codes the rows at positions [first, last), multiples of kLanes. Returns false if interrupted.
[[nodiscard]] bool fill_codes(const Kernels& kernels, const Store& store, const CodePlan& plan, const Codes& codes,
                              std::size_t first, std::size_t last, std::size_t n_threads, const Interrupt& interrupt);

// y <- M (x - center) for n vectors: y holds dim floats each.
[[nodiscard]] bool project_all(const Kernels& kernels, const CodePlan& plan, const float* x, std::size_t n, float* y,
                               std::size_t n_threads, const Interrupt& interrupt);

// Returns false if interrupted.
[[nodiscard]] bool scan_codes(const Kernels& kernels, const Store& store, const CodePlan& plan, const Codes& codes,
                              const Request& request, const Output& output, std::size_t n_threads,
                              const Interrupt& interrupt);

}  // namespace lw
