// The scan: early termination proposes on rotated blocks, exact rows settle.
//
// Blocks hold the rotated, centred rows, one candidate per lane. A candidate that survives the pruning of a block is
// scored on its original row, so every distance that leaves this file is the canonical one and does not depend on the
// rotation, the blocks, the batch or the threads.
#pragma once

#include "rotate.h"
#include "rows.h"

namespace lw {

// Rows gathered in lists (a flat index has one), each padded to a multiple of kLanes positions. A list is cut in
// blocks of kBlock positions, the last one narrower. Position p of a block that begins at position b and is w wide
// stores its dimension d at blocks[b * dim + d * w + (p - b)].
struct Store {
  std::size_t dim;
  Metric metric;
  std::size_t n_rows;
  std::size_t n_lists;
  const std::int64_t* list_begin;  // [n_lists + 1], positions, multiples of kLanes
  const std::int64_t* list_size;   // [n_lists], rows in the list; the rest is padding
  const std::int64_t* ids;         // [positions], row number, -1 for padding
  const float* norms;              // [positions], |x|^2 of the original row for inner product, 0 for squared L2
  const float* blocks;             // [positions * dim]
  const float* rows;               // [n_rows, dim], original
  const float* center;             // [dim], subtracted before the rotation
  double max_norm;                 // the largest |x|
  double max_centered_norm;        // the largest |x - center|
};

struct ScanParameters {
  std::size_t k;
  double eps0;        // infinite: exact. Otherwise the dial of ADSampling.
  std::size_t delta;  // dimensions per step
};

struct ScanStats {
  std::uint64_t candidates = 0;  // rows in the lists that were visited
  std::uint64_t dimensions = 0;  // dimensions added up for them, on blocks and on rows
  std::uint64_t settled = 0;     // rows scored exactly
};

// Fills blocks and norms of every block that reaches beyond first_position. norms may be null for squared L2.
// *max_centered_norm2 becomes the largest |x - center|^2 of the rows it filled in. Returns false if interrupted.
[[nodiscard]] bool fill_blocks(const Kernels& kernels, const Rotation& rotation, const float* center, const float* rows,
                               std::size_t n_lists, const std::int64_t* list_begin, const std::int64_t* ids,
                               std::size_t first_position, float* norms, float* blocks, double* max_centered_norm2,
                               std::size_t n_threads, const Interrupt& interrupt);

// The k nearest of the rows in the probed lists: for query q the lists probes[q * n_probe ...], all if probes is null;
// a probe of -1 is skipped. stats holds one entry per query. Returns false if interrupted.
[[nodiscard]] bool scan(const Kernels& kernels, const Rotation& rotation, const Store& store,
                        const ScanParameters& parameters, const float* queries, std::size_t n_queries,
                        const std::int64_t* probes, std::size_t n_probe, float* distances, std::int64_t* ids,
                        ScanStats* stats, std::size_t n_threads, const Interrupt& interrupt);

}  // namespace lw
