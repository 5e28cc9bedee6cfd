// The binary funnel: one sign bit a dimension estimates every distance, exact rows settle the most promising.
//
// A row x is centred, projected on the store's axes, of which the first few stay, and rotated at random: y, of which
// the signs s are kept. |y|^2 / <s, y> * <s, z> then estimates <y, z> for a query z without bias, because what s has
// besides y points anywhere (Gao & Long, "RaBitQ", SIGMOD 2024). What lies outside of the axes that stay is taken to
// add nothing to the product. Nothing here is certain: a row whose estimate is not among the best is lost.
//
// Codes of two or four bits for the same y may stand between: of the rows with the best estimates they make better
// ones, by the same rule with the codes in the place of the signs (Gao et al., "Practical and asymptotically optimal
// quantization of high-dimensional vectors in Euclidean space", SIGMOD 2025).
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
  double outside;         // variance of a product of what lies outside, relative to its length^2 and the query's
  std::size_t fine_bits;  // 2 or 4, or 0 if the signs are all there is

  // Fine codes that one read of 64 bytes holds, their number in a row, and their bytes.
  std::size_t fine_read() const { return 512 / fine_bits; }
  std::size_t n_fine() const { return fine_bits == 0 ? 0 : (n_bits + fine_read() - 1) / fine_read() * fine_read(); }
  std::size_t fine_stride() const { return n_fine() * fine_bits / 8; }
};

// What is stored of the rows at n_positions positions: eight bytes, and their bits.
struct Bits {
  std::uint8_t* bits;      // as BitRows::bits
  float* base;             // |x - c|^2 / 2, or c . c - c . x for products; infinite for padding
  std::uint16_t* factors;  // |y|^2 / <s, y>, bfloat16
  std::uint16_t* errors;   // standard deviation of the product with a query of length 1, bfloat16, rounded up
  // The same of the fine codes, where the plan has any. A code c stands for 2 c + 1.
  std::int8_t* fine;           // [positions * fine_stride], as Kernels::dot_crumbs or dot_nibbles takes them
  float* fine_factors;         // [positions]
  std::uint16_t* fine_errors;  // [positions]
};

// Enters the rows at positions [first, last), multiples of kLanes. Returns false if interrupted.
[[nodiscard]] bool fill_bits(const Kernels& kernels, const Store& store, const BitPlan& plan, const Bits& bits,
                             std::size_t first, std::size_t last, std::size_t n_threads, const Interrupt& interrupt);

// Scores request.rerank rows of each query exactly, those with the best (estimate, position), from the best on; with
// fine codes, the best by them among the request.refine best by signs. With a finite eps0 it leaves out those whose
// estimate, less eps0 standard deviations, is beyond the k-th best so far. Returns false if interrupted.
[[nodiscard]] bool scan_bits(const Kernels& kernels, const Store& store, const BitPlan& plan, const Bits& bits,
                             const Request& request, const Output& output, std::size_t n_threads,
                             const Interrupt& interrupt);

}  // namespace lw
