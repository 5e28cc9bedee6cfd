// The scan of float rows: early termination proposes on rotated blocks, exact rows settle.
//
// Blocks hold the rotated, centred rows, one candidate per lane. A candidate that survives the pruning of a block is
// scored on its original row, so every distance that leaves this file is the canonical one and does not depend on the
// rotation, the blocks, the batch or the threads.
#pragma once

#include "rotate.h"
#include "store.h"

namespace lw {

// A store's lists cut in blocks of kBlock positions, the last one narrower. Position p of a block that begins at
// position b and is w wide stores its dimension d at data[b * dim + d * w + (p - b)].
struct Blocks {
  Rotation rotation;
  const float* center;       // [dim], subtracted before the rotation
  const float* norms;        // [positions], |x|^2 of the original row for inner product, 0 for squared L2
  const float* data;         // [positions * dim]
  double max_centered_norm;  // the largest |x - center|
};

// Fills data and norms of every block with positions in [first, last). norms may be null for squared L2.
// *max_centered_norm2 becomes the largest |x - center|^2 of the rows it filled in. Returns false if interrupted.
[[nodiscard]] bool fill_blocks(const Kernels& kernels, const Rotation& rotation, const float* center,
                               const Store& store, std::size_t first, std::size_t last, float* norms, float* data,
                               double* max_centered_norm2, std::size_t n_threads, const Interrupt& interrupt);

// Returns false if interrupted.
[[nodiscard]] bool scan_blocks(const Kernels& kernels, const Store& store, const Blocks& blocks, const Request& request,
                               const Output& output, std::size_t n_threads, const Interrupt& interrupt);

}  // namespace lw
