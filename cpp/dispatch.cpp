// The matrix: one row per ISA, best first; one cell per kernel.
#include "dispatch.h"

#include "cpu.h"

namespace lw {

const KernelSet* kernel_sets(std::size_t* count) {
  static const Cpu cpu = detect_cpu();
  static const KernelSet sets[] = {
#ifdef LW_BUILD_X86
      {LW_KERNEL_ROW(avx512), cpu.avx512},
      {LW_KERNEL_ROW(avx2), cpu.avx2},
#endif
#ifdef LW_BUILD_NEON
      {LW_KERNEL_ROW(neon), cpu.neon},
#endif
      {LW_KERNEL_ROW(scalar), true},
  };
  *count = sizeof(sets) / sizeof(sets[0]);
  return sets;
}

}  // namespace lw
