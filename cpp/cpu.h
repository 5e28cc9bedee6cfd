// What this CPU and operating system can run. Wide registers count only if the system saves them (XGETBV).
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace lw {

struct Cpu {
  bool avx2 = false;    // AVX2 and FMA
  bool avx512 = false;  // AVX-512 F, BW, DQ, VL
  bool neon = false;
};

#if defined(__x86_64__) || defined(_M_X64)

struct Cpuid {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

inline Cpuid cpuid(std::uint32_t leaf) {
  Cpuid r;
#if defined(_MSC_VER)
  int regs[4];
  __cpuidex(regs, static_cast<int>(leaf), 0);
  r = {static_cast<std::uint32_t>(regs[0]), static_cast<std::uint32_t>(regs[1]), static_cast<std::uint32_t>(regs[2]),
       static_cast<std::uint32_t>(regs[3])};
#else
  if (__get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
#endif
  return r;
}

// The register states that the operating system saves, as the XCR0 bit field.
inline std::uint64_t saved_states() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
#endif
}

inline Cpu detect_cpu() {
  Cpu cpu;
  const auto bit = [](std::uint32_t word, int n) { return (word >> n & 1) != 0; };
  const Cpuid one = cpuid(1);
  if (!bit(one.ecx, 27)) return cpu;  // OSXSAVE: without it XGETBV is no instruction
  constexpr std::uint64_t kYmm = 0x6;
  constexpr std::uint64_t kZmm = 0xE6;
  const std::uint64_t saved = saved_states();
  const Cpuid seven = cpuid(7);
  cpu.avx2 = (saved & kYmm) == kYmm && bit(one.ecx, 28) && bit(one.ecx, 12) && bit(seven.ebx, 5);
  cpu.avx512 = cpu.avx2 && (saved & kZmm) == kZmm && bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) &&
               bit(seven.ebx, 31);
  return cpu;
}

#else

inline Cpu detect_cpu() {
  Cpu cpu;
#if defined(__aarch64__) || defined(_M_ARM64)
  cpu.neon = true;  // part of the base architecture
#endif
  return cpu;
}

#endif

}  // namespace lw
