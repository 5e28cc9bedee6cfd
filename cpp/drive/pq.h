// Product quantisation: a vector is cut into sub-vectors, each of which is replaced by the nearest of a few code words.
//
// Jegou, Douze & Schmid, "Product quantization for nearest neighbor search", TPAMI 2011. What a code says of a distance
// is made unbiased as RaBitQ does it (Gao & Long, SIGMOD 2024): with the residual y of a row to its centroid and the
// decoded y', |y|^2 / <y, y'> * <y', z> estimates <y, z>, because what y' has besides y points anywhere.
#pragma once

#include <vector>

#include "aligned.h"
#include "store.h"

namespace lw {

// Code words of every sub-space, and the axes on which vectors are cut.
struct Words {
  std::size_t dim;
  std::size_t n_subspaces;  // divides dim
  std::size_t n_bits;       // of a code: 8 or 4
  const float* words;       // [n_subspaces, 2^n_bits, dim / n_subspaces]
  const float* panels;      // a rotation as Kernels::project takes it; null if the axes are the coordinates

  std::size_t n_words() const { return std::size_t{1} << n_bits; }
  std::size_t length() const { return dim / n_subspaces; }
  // Floats of a vector on the axes.
  std::size_t stride() const { return panels == nullptr ? dim : (dim + kLanes - 1) / kLanes * kLanes; }
  // n vectors on the axes, stride apart: themselves, or in `turned`.
  const float* on_axes(const Kernels& kernels, const float* x, std::size_t n, std::vector<float>& turned) const;
};

// Lloyd's algorithm on n vectors of `dim` floats, in every sub-space apart: at most n_iterations, from what `words`
// holds, which it replaces. Panels are not looked at. Returns false if interrupted.
[[nodiscard]] bool train_words(const Kernels& kernels, const float* x, std::size_t n, const Words& shape, float* words,
                               std::size_t n_iterations, std::size_t n_threads, const Interrupt& interrupt);

// Codes of n vectors: codes[i * n_subspaces + s]. Returns false if interrupted.
[[nodiscard]] bool encode(const Kernels& kernels, const Words& words, const float* x, std::size_t n,
                          std::uint8_t* codes, std::size_t n_threads, const Interrupt& interrupt);

// What rows in lists are coded by.
struct ProductPlan {
  Words words;             // of what a row has beyond a centroid
  const float* center;     // [dim], from which queries are seen
  const float* centroids;  // [n_lists, dim]
  std::size_t n_lists;
  bool by_residual;  // beyond its list's centroid, or beyond the centre

  // Bytes of a row's codes: of four bits, the two halves of a byte, filled up to what a kernel reads at once.
  std::size_t n_bytes() const { return words.n_bits == 8 ? words.n_subspaces : (words.n_subspaces + 15) / 16 * 8; }
};

// The code of a coordinate 0 of a word.
inline constexpr std::int32_t kWordZero = 64;

// A plan as queries and rows meet it, made once: the same bits whatever the kernels.
struct PreparedPlan {
  ProductPlan plan;
  std::size_t stride = 0;          // floats of a vector on the axes of the words
  std::vector<float> seen;         // [n_lists, stride], centroids on those axes, less the centre
  std::vector<float> centroids;    // the same in panels, as Kernels::project takes them
  std::vector<float> half_norms;   // [n_lists], of the centroids seen from the centre
  std::vector<float> center_dots;  // [n_lists], -(center . centroid)
  // Words as whole numbers: a coordinate is about kWordZero steps of its dimension less than its number of them.
  std::size_t quads = 0;              // of a byte of codes
  std::size_t n_quads = 0;            // of a row
  std::vector<float> word_steps;      // [dim]
  std::vector<std::uint32_t> places;  // [dim], of a coordinate in a row's quads
  Aligned<std::uint8_t> nibbles;      // as Kernels::decode_nibbles wants them, if codes have four bits
  Aligned<std::int32_t> bytes;        // as Kernels::decode_bytes wants them, if they have eight

  PreparedPlan() = default;
  PreparedPlan(const Kernels& kernels, const ProductPlan& plan);

  // Whether Kernels::screen_nibbles can be used.
  bool has_tables() const;
  std::int32_t largest_query_code() const;

 private:
  void number_words();
};

// What is stored of the rows at n_positions positions: eight bytes, and their codes.
struct ProductCodes {
  std::uint8_t* codes;     // as BitRows::bits
  float* base;             // what an estimate has besides the product with the query; infinite for padding
  std::uint16_t* factors;  // |y|^2 / <y, y'>, bfloat16
  std::uint16_t* errors;   // length of y less the factor times y', bfloat16, rounded up
};

// Enters the rows at positions [first, last), multiples of kLanes. Returns false if interrupted.
[[nodiscard]] bool fill_products(const Kernels& kernels, const Store& store, const PreparedPlan& plan,
                                 const ProductCodes& codes, std::size_t first, std::size_t last, std::size_t n_threads,
                                 const Interrupt& interrupt);

// Visits the n_probe lists nearest to each query, and scores request.rerank rows of them exactly, those with the best
// (estimate, position), from the best on. With a finite eps0 it leaves out those whose estimate, less eps0 standard
// deviations, is beyond the k-th best so far. If rerank is 0, the k best estimates are the answer. Returns false if
// interrupted.
[[nodiscard]] bool scan_products(const Kernels& kernels, const Store& store, const PreparedPlan& plan,
                                 const ProductCodes& codes, const Request& request, const Output& output,
                                 std::size_t n_threads, const Interrupt& interrupt);

}  // namespace lw
