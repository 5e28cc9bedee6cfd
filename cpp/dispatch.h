// Which kernel sets are in this build, and which of them can run here.
#pragma once

#include "kernels.h"

namespace lw {

struct KernelSet {
  Kernels kernels;
  bool runnable;
};

// All sets of this build, best first. The last is always "scalar".
const KernelSet* kernel_sets(std::size_t* count);

}  // namespace lw
