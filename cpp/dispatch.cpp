// The matrix: one row per ISA, best first; one cell per kernel. A row may take some cells from another.
#include "dispatch.h"

#include "cpu.h"

namespace lw {

const KernelSet* kernel_sets(std::size_t* count) {
  static const Cpu cpu = detect_cpu();
  static const KernelSet sets[] = {
#ifdef LW_BUILD_AMX
      {LW_KERNEL_ROW(amx, amx, avx512vnni, avx512, true), cpu.avx512 && cpu.avx512vnni && cpu.amx},
#endif
#ifdef LW_BUILD_X86
      {LW_KERNEL_ROW(avx512vnni, avx512vnni, avx512vnni, avx512, false), cpu.avx512 && cpu.avx512vnni},
      {LW_KERNEL_ROW(avx512, avx512, avx512, avx512, false), cpu.avx512},
      {LW_KERNEL_ROW(avx2vnni, avx2vnni, avx2vnni, avx2, false), cpu.avx2 && cpu.avxvnni},
      {LW_KERNEL_ROW(avx2, avx2, avx2, avx2, false), cpu.avx2},
#endif
#ifdef LW_BUILD_NEON
      {LW_KERNEL_ROW(neondot, neondot, neondot, neon, false), cpu.neon && cpu.neondot},
      {LW_KERNEL_ROW(neon, neon, neon, neon, false), cpu.neon},
#endif
      {LW_KERNEL_ROW(scalar, scalar, scalar, scalar, false), true},
  };
  *count = sizeof(sets) / sizeof(sets[0]);
  return sets;
}

}  // namespace lw
