// The contract of every kernel, written once: what each does to one block, and the row that holds one ISA's set.
//
// A kernel computes one block on one ISA. It does not allocate, thread, throw, lock or print, and it trusts its
// arguments: drivers and Python have checked them. All ISAs give the same bits for the same input.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lw {

// The logical vector: one zmm, two ymm, four NEON q, or sixteen floats in scalar code.
inline constexpr std::size_t kLanes = 16;

// A scan block holds at most this many candidates, so that a survivor set is one 64-bit mask.
inline constexpr std::size_t kBlock = 64;

struct Kernels {
  const char* name;

  // check/finite.cpp
  // Whether none of n floats is NaN or infinite, nor becomes so if multiplied by scale.
  bool (*all_finite)(const float* x, std::size_t n, float scale);

  // rotate/fwht.cpp
  // For each of `n` vectors of 2^log2_dim floats, `stride` floats apart: out <- H (weights * in), where H is the
  // unnormalised Walsh-Hadamard matrix and out may be in. `weights` (2^log2_dim floats) carries signs and scaling.
  void (*fwht)(const float* in, float* out, std::size_t n, std::size_t stride, unsigned log2_dim, const float* weights);

  // distance/prune.cpp
  // One step of an early-terminated scan over a block of `width` candidates (a multiple of kLanes, at most kBlock),
  // dimension-major: dimension d of candidate c is block[d * width + c]. Adds (query[d] - x[d])^2 for d in
  // [begin, end) to partial[c], for every group of kLanes candidates that still has one in `alive`; returns the
  // candidates of `alive` with partial[c] < scale * (offset + norms[c]).
  // Squared L2 passes norms = 0 and offset = bound; inner product passes norms = |x|^2 and
  // offset = |q|^2 - 2 * bound, because q.x > bound exactly when |q - x|^2 < |q|^2 + |x|^2 - 2 * bound.
  std::uint64_t (*prune)(const float* block, std::size_t width, const float* query, std::size_t begin, std::size_t end,
                         float* partial, const float* norms, float offset, float scale, std::uint64_t alive);

  // distance/rows.cpp
  // The canonical distance: out[i] = |query - row|^2, or query . row, for the `n` rows of `dim` floats that `ids`
  // names (the first n rows if ids is null). Sixteen strided chains of fused multiply-adds, then one fixed tree.
  void (*l2_rows)(const float* query, const float* rows, const std::int64_t* ids, std::size_t n, std::size_t dim,
                  float* out);
  void (*dot_rows)(const float* query, const float* rows, const std::int64_t* ids, std::size_t n, std::size_t dim,
                   float* out);

  // assign/assign.cpp
  // For each of n_groups * kLanes points the centroid with the largest bias[j] + x . c_j, the smallest j among equals.
  // Points and centroids are dimension-major in groups of kLanes: dimension d of member m of group g is
  // data[(g * dim + d) * kLanes + m]. Each sum is one chain of fused multiply-adds over the dimensions, from bias.
  // Padding centroids have bias -inf. `scratch` holds n_groups * kLanes * 3 * kLanes words of 32 bits. runner_ups is
  // the second largest, equal to scores if two centroids share the largest, -inf if there is but one centroid.
  void (*assign)(const float* points, std::size_t n_groups, const float* centroids, const float* bias,
                 std::size_t n_panels, std::size_t dim, void* scratch, std::int32_t* labels, float* scores,
                 float* runner_ups);

  // keyed/threefry.cpp
  // (out0[i], out1[i]) = Threefry2x64-13(key, counter = (counter0[i], counter1)), for n a multiple of 8.
  void (*threefry)(const std::uint64_t key[2], const std::uint64_t* counter0, std::uint64_t counter1, std::size_t n,
                   std::uint64_t* out0, std::uint64_t* out1);
};

// Declares one ISA's kernels, each in its own namespace so that no two objects can share a symbol.
#define LW_DECLARE_KERNELS(ISA)                                                                                       \
  namespace ISA {                                                                                                     \
  bool all_finite(const float*, std::size_t, float);                                                                  \
  void fwht(const float*, float*, std::size_t, std::size_t, unsigned, const float*);                                  \
  std::uint64_t prune(const float*, std::size_t, const float*, std::size_t, std::size_t, float*, const float*, float, \
                      float, std::uint64_t);                                                                          \
  void l2_rows(const float*, const float*, const std::int64_t*, std::size_t, std::size_t, float*);                    \
  void dot_rows(const float*, const float*, const std::int64_t*, std::size_t, std::size_t, float*);                   \
  void assign(const float*, std::size_t, const float*, const float*, std::size_t, std::size_t, void*, std::int32_t*,  \
              float*, float*);                                                                                        \
  void threefry(const std::uint64_t*, const std::uint64_t*, std::uint64_t, std::size_t, std::uint64_t*,               \
                std::uint64_t*);                                                                                      \
  }

// One row of the dispatch matrix.
#define LW_KERNEL_ROW(ISA) \
  Kernels { #ISA, ISA::all_finite, ISA::fwht, ISA::prune, ISA::l2_rows, ISA::dot_rows, ISA::assign, ISA::threefry }

LW_DECLARE_KERNELS(scalar)
LW_DECLARE_KERNELS(avx2)
LW_DECLARE_KERNELS(avx512)
LW_DECLARE_KERNELS(neon)

}  // namespace lw
