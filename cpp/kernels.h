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

// Codes are screened in runs of at most this many groups of kLanes candidates.
inline constexpr std::size_t kScreenGroups = 64;

// Queries that screen_tile and screen_decoded take at once.
inline constexpr std::size_t kScreenQueries = 64;

// The front of code planes, from its first group on: the leading dimensions of every candidate, one plane for each step
// and group by group within it. Of the step's m quads, quad j (the four dimensions from 4j on) of lane l in group g is
// the four codes at codes[step][((g * m + j) * kLanes + l) * 4]. Behind the last group of a plane 1,024 bytes can be
// read.
struct CodeFront {
  const std::int8_t* const* codes;  // [n_steps]
  const float* base;                // [n_groups * kLanes]
  const std::uint16_t* residuals;   // [n_groups * kLanes], bfloat16
  const std::uint16_t* tails;       // [n_steps], each tail_stride apart, of [n_groups * kLanes], bfloat16
  std::size_t tail_stride;
  const std::uint32_t* ends;  // [n_steps] quads, ascending
  std::size_t n_steps;
  std::size_t first_look;  // the first step that drops candidates
};

// One query as screen_codes wants it.
struct CodeQuery {
  const std::int8_t* codes;  // of all steps, in [-127, 127]
  const std::int32_t* sums;  // [n_steps], sum of the codes of each step
  // [n_steps], bits by which the products so far go to the left before those of a step are added: later dimensions
  // weigh less, and have finer codes.
  const std::int32_t* shifts;
  const float* scales;        // [n_steps], of the products up to the end of each step
  const float* tail_weights;  // [n_steps]
  float residual_weight;
};

// Sign bits of rows, from the first group on: bit i of lane l's byte j in group g, for dimension 8j + i, is bit i of
// bits[(g * n_bytes + j) * kLanes + l]. n_bytes is a multiple of 8.
struct BitRows {
  const std::uint8_t* bits;
  const float* base;             // [n_groups * kLanes]
  const std::uint16_t* factors;  // [n_groups * kLanes], bfloat16
  std::size_t n_bytes;
};

// The largest entry of a table: four of them fit in a byte.
inline constexpr std::size_t kBitEntry = 60;

// One query as screen_bits wants it. What bits 0 to 3 of byte j add stands in sixteen entries of at most kBitEntry at
// tables[((j / 4 * 2) * 4 + j % 4) * kLanes], what bits 4 to 7 add at tables[((j / 4 * 2 + 1) * 4 + j % 4) * kLanes].
struct BitQuery {
  const std::uint8_t* tables;  // [2 * n_bytes * kLanes]
  std::int32_t total;
  float step;
};

// One query as screen_nibbles wants it. What the low half of byte j adds stands in sixteen entries below 2^15: their
// low bytes at tables[((j / 4 * 4) * 4 + j % 4) * kLanes], the high ones at tables[((j / 4 * 4 + 1) * 4 + j % 4) *
// kLanes]. Those of its high half stand 128 behind.
struct NibbleQuery {
  const std::uint8_t* tables;  // [4 * n_bytes * kLanes]
  std::int32_t total;
  float step;
};

// Steps of the fine code in one of the coarse code.
inline constexpr float kFineSteps = 254.0f;

// What a row's two codes say of it: x is about scale * (coarse + fine / kFineSteps).
struct RowCode {
  float scale;  // 0 if no coordinate is large enough for a code
  float norm2;  // |x|^2
  // Of what the coarse codes leave, and of what both do, in steps of the coarse code.
  float coarse2;
  float residual2;
};

// Centroids as assign meets them, sixteen in a panel: dimension d of lane l in panel p is rows[(p * dim + d) * kLanes +
// l].
struct Panels {
  const float* rows;
  const float* bias;         // [panels * kLanes], -inf for padding
  const std::uint32_t* ids;  // [n] of the panels to be met, ascending; null for 0 to n - 1
  std::size_t n;
};

// Coded centroids of one scale, sixteen in a panel. Quad j (dimensions 4j to 4j + 3) of lane l in panel p is the four
// coarse codes at codes[2 * p * stride * kLanes + (j * kLanes + l) * 4]; the fine codes lie stride * kLanes behind.
struct CodedPanels {
  const std::int8_t* codes;
  const float* bias;  // as in Panels, and ids too
  const std::uint32_t* ids;
  std::size_t n;
};

// Decoded product codes, from the first group on: quad j (coordinates 4j to 4j + 3) of lane l in group g is the four at
// codes[((g * n_quads + j) * kLanes + l) * 4], in [0, 127]. n_quads is a multiple of 16.
struct DecodedRows {
  const std::int8_t* codes;
  const float* base;             // [n_groups * kLanes]
  const std::uint16_t* factors;  // [n_groups * kLanes], bfloat16
  std::size_t n_quads;
};

// The queries that meet them. Codes are in [-127, 127]; behind those of the last query there is room for a multiple of
// 16 of them, which is read, whatever it holds.
struct DecodedQueries {
  const std::int8_t* codes;    // [n_queries, 4 * n_quads]
  const std::int32_t* totals;  // [n_queries], what products have too much
  const float* steps;          // [n_queries], of a product
  const float* limits;         // [n_queries], of an estimate
};

// Coded rows as max_code_dots meets them: row i is about scales[i] * codes[i * 4 * n_quads ...].
struct TokenCodes {
  const std::int8_t* codes;  // in [-127, 127], zero behind the last dimension
  const float* scales;
  const std::int32_t* sums;  // of the codes of each row
};

struct Kernels {
  const char* name;
  // Whether assign_codes is faster than assign, as measured: three integer products for a float one.
  bool codes_pay;

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

  // distance/rows_within.cpp
  // l2_rows, but row i is looked at after each `step` dimensions (a multiple of kLanes), and once more behind the last
  // whole kLanes of them: it is left, and out[i] is infinite, as soon as its sum exceeds bounds[i] * factors[look], or
  // bounds[i] if factors is null. Sums of squares only grow, in float arithmetic too, so that without factors, or with
  // none below 1, a row that is left is certainly beyond. What is not left has the very bits of l2_rows.
  void (*l2_rows_within)(const float* query, const float* rows, const std::int64_t* ids, std::size_t n, std::size_t dim,
                         const float* bounds, std::size_t step, const float* factors, float* out);

  // rotate/project.cpp
  // out[i] = M x[i] for n vectors of `dim` floats. Row r of M stands in panel r / kLanes: its entry for dimension d is
  // panels[(r / kLanes * dim + d) * kLanes + r % kLanes]; out holds n_panels * kLanes floats a vector. Each sum is a
  // chain of chains over 64 dimensions, so that its error grows with dim / 64 + 64.
  void (*project)(const float* x, std::size_t n, std::size_t dim, const float* panels, std::size_t n_panels,
                  float* out);

  // codes/screen.cpp
  // For candidate c of a group, with the integer product p of its codes and the query's up to the end of a step,
  // p = (p of the step before << shifts[step]) + its own:
  //   estimate = base[c] - scales[step] * p,  lower = estimate - residual_weight * residuals[c] - tail_weight *
  //   tail[c].
  // After each step from first_look on only candidates with lower < limit stay in alive[group]. Estimates of the last
  // step are written for groups that still have one. quads_read grows by the quads that each candidate alive at its
  // beginning adds up in every step behind first_look. At most kScreenGroups groups; products stay below 2^31.
  void (*screen_codes)(const CodeFront& front, std::size_t n_groups, const CodeQuery& query, float limit,
                       std::uint16_t* alive, float* estimates, std::uint64_t* quads_read);

  // codes/screen_tile.cpp
  // screen_codes for n_queries queries, at most kScreenQueries: query q has limits[q], alive[q * kScreenGroups ...],
  // quads_read[q] and, for candidate c of group g, estimates[(g * kScreenQueries + q) * kLanes + c], which is undefined
  // if the group has no candidate left.
  void (*screen_tile)(const CodeFront& front, std::size_t n_groups, const CodeQuery* queries, std::size_t n_queries,
                      const float* limits, std::uint16_t* alive, float* estimates, std::uint64_t* quads_read);

  // codes/dot.cpp
  // out[i] = product of n codes (a multiple of 64) of the query, which sum to query_sum, and those at
  // rows + positions[i] * stride.
  void (*dot_codes)(const std::int8_t* query, std::int32_t query_sum, const std::int8_t* rows, std::size_t stride,
                    const std::int64_t* positions, std::size_t n_positions, std::size_t n, std::int32_t* out);

  // codes/dot_nibbles.cpp
  // The same for codes of four bits, stored plus 8: byte b of a row's 64-byte stretch s holds code 128 s + b in its low
  // half and code 128 s + 64 + b in its high one. n is a multiple of 128.
  void (*dot_nibbles)(const std::int8_t* query, std::int32_t query_sum, const std::int8_t* rows, std::size_t stride,
                      const std::int64_t* positions, std::size_t n_positions, std::size_t n, std::int32_t* out);

  // codes/dot_crumbs.cpp
  // The same for codes of two bits, stored plus 2: byte b of a row's 64-byte stretch s holds code 256 s + 64 f + b in
  // its bits 2f and 2f + 1. n is a multiple of 256.
  void (*dot_crumbs)(const std::int8_t* query, std::int32_t query_sum, const std::int8_t* rows, std::size_t stride,
                     const std::int64_t* positions, std::size_t n_positions, std::size_t n, std::int32_t* out);

  // binary/screen_bits.cpp
  // For candidate c of a group, with the sum s of what its bits look up in the query's tables:
  //   estimate = base[c] - factors[c] * (step * (2 s - total)).
  // Only candidates with estimate < limit stay in alive[group]. Estimates are written for groups that still have one.
  void (*screen_bits)(const BitRows& rows, std::size_t n_groups, const BitQuery& query, float limit,
                      std::uint16_t* alive, float* estimates);

  // assign/assign.cpp
  // For each of n points of `dim` floats the centroid with the largest bias[j] + x . c_j, the smallest j among equals.
  // Each sum is one chain of fused multiply-adds over the dimensions, from bias. `scratch` holds n * 3 * kLanes words
  // of 32 bits. runner_ups is the second largest, equal to scores if two centroids share the largest, -inf if there is
  // but one centroid. Neither is -0.
  void (*assign)(const float* points, std::size_t n, const Panels& panels, std::size_t dim, void* scratch,
                 std::int32_t* labels, float* scores, float* runner_ups);

  // assign/add_rows.cpp
  // sum[d] += weights[ids[i]] * rows[ids[i] * dim + d] for i = 0, 1, ..., n - 1, each rounded; weights may be null
  // for 1.
  void (*add_rows)(const float* rows, const std::uint32_t* ids, std::size_t n, std::size_t dim, const double* weights,
                   double* sum);

  // assign/code_rows.cpp
  // Codes n rows of `dim` floats, less `shift`; `stride` is dim rounded up to a multiple of 64, and codes behind dim
  // are zero. The coarse codes of row i for dimensions [d, d + 64) lie at codes[i / kLanes * kLanes * 2 * stride + d *
  // 2 * kLanes + i % kLanes * 64], the fine ones 64 * kLanes behind. A row's scale is its largest coordinate, or
  // `least` if that is more, over 127.
  void (*code_rows)(const float* rows, std::size_t n, std::size_t dim, const float* shift, float least,
                    std::size_t stride, std::int8_t* codes, RowCode* facts);

  // assign/assign_codes.cpp
  // Each of n_points points (a multiple of kLanes) meets the panels' centroids: with the products p of coarse codes and
  // q of coarse with fine ones, both ways, the score is (kFineSteps * p + q) + weights[i] * bias[j]. near[i] is the
  // label of the best if all others are more than doubts[i] behind it, otherwise -1. `scratch` holds n_points * 3 *
  // kLanes words of 32 bits: afterwards the best score of every lane, its panel, and the best beside it. At most 65,536
  // dimensions.
  void (*assign_codes)(const std::int8_t* points, std::size_t n_points, std::size_t stride, const float* weights,
                       const float* doubts, const CodedPanels& panels, void* scratch, std::int32_t* near);

  // maxsim/max_dots.cpp
  // out[i] = the largest product of vector i with any of n rows of `dim` floats, -inf if there are none. Vectors are
  // packed as centroids are in Panels, n_panels * kLanes of them. Each sum is one chain of fused multiply-adds over the
  // dimensions; of equal products the first counts.
  void (*max_dots)(const float* rows, std::size_t n, std::size_t dim, const float* panels, std::size_t n_panels,
                   float* out);

  // maxsim/max_code_dots.cpp
  // out[i] = the largest scales[j] * p, each p the product of the codes of vector i and row j, -inf if there are no
  // rows. Quad d of vector l in panel p is the four codes at panels[((p * n_quads + d) * kLanes + l) * 4]. At most
  // 65,536 dimensions.
  void (*max_code_dots)(const TokenCodes& rows, std::size_t n, std::size_t n_quads, const std::int8_t* panels,
                        std::size_t n_panels, float* out);

  // pq/nearest_words.cpp
  // For each of n_groups * kLanes points, packed as centroids are in Panels, the word with the largest bias[j] + x .
  // w_j, the smallest j among equals. Words are rows of `dim` floats, their number is a multiple of 4.
  // Each sum is one chain of fused multiply-adds over the dimensions, from bias.
  void (*nearest_words)(const float* points, std::size_t n_groups, std::size_t dim, const float* words,
                        const float* bias, std::size_t n_words, std::int32_t* labels);

  // pq/add_to_words.cpp
  // sums[labels[i] * dim + d] += rows[i * dim + d] for i = 0, 1, ..., n - 1, each rounded.
  void (*add_to_words)(const float* rows, const std::int32_t* labels, std::size_t n, std::size_t dim, double* sums);

  // pq/decode_nibbles.cpp
  // Codes of four bits, byte j of lane l in group g at codes[(g * n_bytes + j) * kLanes + l], n_bytes a multiple of 4,
  // as DecodedRows has them: with Q = (2 * length + 3) / 4, coordinate i of byte j is number 4 * Q * j + i. For i <
  // length it is entry b of a table of kLanes bytes, b being the low half of the byte, from there on its high half; the
  // table stands at tables[((j / 4 * 4 * Q + i) * 4 + j % 4) * kLanes]. Quads behind these are left as they are.
  void (*decode_nibbles)(const std::uint8_t* codes, std::size_t n_groups, std::size_t n_bytes,
                         const std::uint8_t* tables, std::size_t length, std::size_t n_quads, std::int8_t* out);

  // pq/decode_bytes.cpp
  // The same for codes of eight bits, as int32 of a quad each: quads [j * quads, (j + 1) * quads) come from byte j, and
  // quad i is entry b of the 256 at tables[256 * i].
  void (*decode_bytes)(const std::uint8_t* codes, std::size_t n_groups, std::size_t n_bytes, const std::int32_t* tables,
                       std::size_t quads, std::size_t n_quads, std::int32_t* out);

  // pq/screen_decoded.cpp
  // For candidate c of group g and query q, at most kScreenQueries, with the integer product p of their codes:
  //   estimate = base[c] - factors[c] * (steps[q] * (p - totals[q])).
  // Only candidates with estimate < limits[q] stay in alive[q * kScreenGroups + g]. Estimates of all candidates are
  // written to estimates[(g * n_queries + q) * kLanes + c]. At most kScreenGroups groups.
  void (*screen_decoded)(const DecodedRows& rows, std::size_t n_groups, const DecodedQueries& queries,
                         std::size_t n_queries, std::uint16_t* alive, float* estimates);

  // pq/screen_nibbles.cpp
  // For candidate c of a group, with the sum s of what its codes look up in the query's tables:
  //   estimate = base[c] - factors[c] * (step * (s - total)).
  // Only candidates with estimate < limit stay in alive[group]. Estimates are written for groups that still have one.
  // rows.bits are the codes of decode_nibbles, and n_bytes a multiple of 4; sums stay below 2^31.
  void (*screen_nibbles)(const BitRows& rows, std::size_t n_groups, const NibbleQuery& query, float limit,
                         std::uint16_t* alive, float* estimates);

  // keyed/threefry.cpp
  // (out0[i], out1[i]) = Threefry2x64-13(key, counter = (counter0[i], counter1)), for n a multiple of 8.
  void (*threefry)(const std::uint64_t key[2], const std::uint64_t* counter0, std::uint64_t counter1, std::size_t n,
                   std::uint64_t* out0, std::uint64_t* out1);

  // peak/multiply_adds.cpp
  // out[l] = x[l] * y[l] added up n times, in registers: for benchmarks, which divide by what it gives. n is a multiple
  // of 48. Exact, and so the same everywhere, where all products and sums are whole numbers below 2^24.
  void (*multiply_adds)(std::size_t n, const float* x, const float* y, float* out);

  // peak/multiply_add_codes.cpp
  // The same for codes: out[l] = n times, modulo 2^32, the product of codes[4l ...] with the query's four in
  // [-127, 127]. n is a multiple of 3,072. Where there is no instruction for it a compiler may take the product out of
  // the loop, and it says nothing about the machine.
  void (*multiply_add_codes)(std::size_t n, const std::int8_t* codes, const std::int8_t* query, std::int32_t* out);

  // What multiplies whole rows of codes of 8, 4 or 2 bits.
  auto dot_of(std::size_t bits) const { return bits == 8 ? dot_codes : bits == 4 ? dot_nibbles : dot_crumbs; }
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
  void l2_rows_within(const float*, const float*, const std::int64_t*, std::size_t, std::size_t, const float*,        \
                      std::size_t, const float*, float*);                                                             \
  void project(const float*, std::size_t, std::size_t, const float*, std::size_t, float*);                            \
  void screen_bits(const BitRows&, std::size_t, const BitQuery&, float, std::uint16_t*, float*);                      \
  void assign(const float*, std::size_t, const Panels&, std::size_t, void*, std::int32_t*, float*, float*);           \
  void add_rows(const float*, const std::uint32_t*, std::size_t, std::size_t, const double*, double*);                \
  void code_rows(const float*, std::size_t, std::size_t, const float*, float, std::size_t, std::int8_t*, RowCode*);   \
  void max_dots(const float*, std::size_t, std::size_t, const float*, std::size_t, float*);                           \
  void add_to_words(const float*, const std::int32_t*, std::size_t, std::size_t, double*);                            \
  void decode_nibbles(const std::uint8_t*, std::size_t, std::size_t, const std::uint8_t*, std::size_t, std::size_t,   \
                      std::int8_t*);                                                                                  \
  void decode_bytes(const std::uint8_t*, std::size_t, std::size_t, const std::int32_t*, std::size_t, std::size_t,     \
                    std::int32_t*);                                                                                   \
  void screen_nibbles(const BitRows&, std::size_t, const NibbleQuery&, float, std::uint16_t*, float*);                \
  void threefry(const std::uint64_t*, const std::uint64_t*, std::uint64_t, std::size_t, std::uint64_t*,               \
                std::uint64_t*);                                                                                      \
  void multiply_adds(std::size_t, const float*, const float*, float*);                                                \
  }

// The kernels on codes, which some ISAs have instructions of their own for, and nearest_words, which a matrix unit is
// better at.
#define LW_DECLARE_TILE_KERNELS(ISA)                                                                                   \
  namespace ISA {                                                                                                      \
  void screen_tile(const CodeFront&, std::size_t, const CodeQuery*, std::size_t, const float*, std::uint16_t*, float*, \
                   std::uint64_t*);                                                                                    \
  void assign_codes(const std::int8_t*, std::size_t, std::size_t, const float*, const float*, const CodedPanels&,      \
                    void*, std::int32_t*);                                                                             \
  void nearest_words(const float*, std::size_t, std::size_t, const float*, const float*, std::size_t, std::int32_t*);  \
  void screen_decoded(const DecodedRows&, std::size_t, const DecodedQueries&, std::size_t, std::uint16_t*, float*);    \
  void multiply_add_codes(std::size_t, const std::int8_t*, const std::int8_t*, std::int32_t*);                         \
  }
#define LW_DECLARE_CODE_KERNELS(ISA)                                                                                   \
  LW_DECLARE_TILE_KERNELS(ISA)                                                                                         \
  namespace ISA {                                                                                                      \
  void screen_codes(const CodeFront&, std::size_t, const CodeQuery&, float, std::uint16_t*, float*, std::uint64_t*);   \
  void dot_codes(const std::int8_t*, std::int32_t, const std::int8_t*, std::size_t, const std::int64_t*, std::size_t,  \
                 std::size_t, std::int32_t*);                                                                          \
  void dot_nibbles(const std::int8_t*, std::int32_t, const std::int8_t*, std::size_t, const std::int64_t*,             \
                   std::size_t, std::size_t, std::int32_t*);                                                           \
  void dot_crumbs(const std::int8_t*, std::int32_t, const std::int8_t*, std::size_t, const std::int64_t*, std::size_t, \
                  std::size_t, std::int32_t*);                                                                         \
  void max_code_dots(const TokenCodes&, std::size_t, std::size_t, const std::int8_t*, std::size_t, float*);            \
  }

// One row of the dispatch matrix: the ISA's name, and the ISAs that it has its tiles of codes, its other kernels on
// codes and all others from.
#define LW_KERNEL_ROW(ISA, TILES, CODES, BASE, CODES_PAY)                                                            \
  Kernels {                                                                                                          \
    #ISA, CODES_PAY, BASE::all_finite, BASE::fwht, BASE::prune, BASE::l2_rows, BASE::dot_rows, BASE::l2_rows_within, \
        BASE::project, CODES::screen_codes, TILES::screen_tile, CODES::dot_codes, CODES::dot_nibbles,                \
        CODES::dot_crumbs, BASE::screen_bits, BASE::assign, BASE::add_rows, BASE::code_rows, TILES::assign_codes,    \
        BASE::max_dots, CODES::max_code_dots, TILES::nearest_words, BASE::add_to_words, BASE::decode_nibbles,        \
        BASE::decode_bytes, TILES::screen_decoded, BASE::screen_nibbles, BASE::threefry, BASE::multiply_adds,        \
        TILES::multiply_add_codes                                                                                    \
  }

LW_DECLARE_KERNELS(scalar)
LW_DECLARE_KERNELS(avx2)
LW_DECLARE_KERNELS(avx512)
LW_DECLARE_KERNELS(neon)
LW_DECLARE_CODE_KERNELS(scalar)
LW_DECLARE_CODE_KERNELS(avx2)
LW_DECLARE_CODE_KERNELS(avx2vnni)
LW_DECLARE_CODE_KERNELS(avx512)
LW_DECLARE_CODE_KERNELS(avx512vnni)
LW_DECLARE_TILE_KERNELS(amx)
LW_DECLARE_CODE_KERNELS(neon)
LW_DECLARE_CODE_KERNELS(neondot)

}  // namespace lw
