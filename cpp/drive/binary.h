// The binary funnel: one sign bit a dimension estimates every distance, exact rows settle the most promising.
//
// A row x is centred, projected on the store's axes, of which the first few stay, and rotated at random: y, of which
// the signs s are kept. |y|^2 / <s, y> * <s, z> then estimates <y, z> for a query z without bias, because what s has
// besides y points anywhere (Gao & Long, "RaBitQ", SIGMOD 2024). What lies outside of the axes that stay is taken to
// add nothing to the product. Nothing here is certain: a row whose estimate is not among the best is lost.
#pragma once

#include "rotate.h"
#include "store.h"

namespace lw {

struct BitPlan {
  std::size_t dim;
  std::size_t n_bits;   // a multiple of 64, the rotation's dimension
  std::size_t n_axes;   // axes that stay, at most min(dim, n_bits); the other coordinates that are rotated are 0
  const float* center;  // [dim]
  const float* panels;  // the axes as Kernels::project takes them; null if they are the coordinates
  Rotation rotation;
  double outside;  // variance of a product of what lies outside, relative to its length^2 and the query's
};

// What is stored of the rows at n_positions positions: eight bytes, and their bits.
struct Bits {
  std::uint8_t* bits;      // as BitRows::bits
  float* base;             // |x - c|^2 / 2, or c . c - c . x for products; infinite for padding
  std::uint16_t* factors;  // |y|^2 / <s, y>, bfloat16
  std::uint16_t* errors;   // standard deviation of the product with a query of length 1, bfloat16, rounded up
};

// Enters the rows at positions [first, last), multiples of kLanes. Returns false if interrupted.
[[nodiscard]] bool fill_bits(const Kernels& kernels, const Store& store, const BitPlan& plan, const Bits& bits,
                             std::size_t first, std::size_t last, std::size_t n_threads, const Interrupt& interrupt);

// Scores request.rerank rows of each query exactly, those with the best (estimate, position), from the best on. With a
// finite eps0 it leaves out those whose estimate, less eps0 standard deviations, is beyond the k-th best so far.
// Returns false if interrupted.
[[nodiscard]] bool scan_bits(const Kernels& kernels, const Store& store, const BitPlan& plan, const Bits& bits,
                             const Request& request, const Output& output, std::size_t n_threads,
                             const Interrupt& interrupt);

}  // namespace lw
