// What this CPU and operating system can run. Wide registers count only if the system saves them (XGETBV).
#pragma once

#include <cstdint>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(_M_ARM64)
#include <windows.h>
#endif

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace lw {

struct Cpu {
  bool avx2 = false;        // AVX2 and FMA
  bool avxvnni = false;     // products of bytes in the AVX2 encoding
  bool avx512 = false;      // AVX-512 F, BW, DQ, VL
  bool avx512vnni = false;  // products of bytes in the AVX-512 encoding
  bool amx = false;         // matrix unit for bytes and bfloat16, which the operating system lets us use
  bool neon = false;
  bool neondot = false;  // products of bytes
};

#if defined(__x86_64__) || defined(_M_X64)

struct Cpuid {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

inline Cpuid cpuid(std::uint32_t leaf, std::uint32_t subleaf = 0) {
  Cpuid r;
#if defined(_MSC_VER)
  int regs[4];
  __cpuidex(regs, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<std::uint32_t>(regs[0]), static_cast<std::uint32_t>(regs[1]), static_cast<std::uint32_t>(regs[2]),
       static_cast<std::uint32_t>(regs[3])};
#else
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
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

// Linux hands out the matrix unit's eight kilobytes of state only to who asks for them.
inline bool may_use_matrix_unit() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
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
  cpu.avx512vnni = bit(seven.ecx, 11);
  constexpr std::uint64_t kTiles = 0x60000;
  cpu.amx = (saved & kTiles) == kTiles && bit(seven.edx, 22) && bit(seven.edx, 24) && bit(seven.edx, 25) &&
            may_use_matrix_unit();
  cpu.avxvnni = seven.eax >= 1 && bit(cpuid(7, 1).eax, 4);
  return cpu;
}

#else

inline Cpu detect_cpu() {
  Cpu cpu;
#if defined(__aarch64__) || defined(_M_ARM64)
  cpu.neon = true;  // part of the base architecture
#if defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  cpu.neondot = (getauxval(AT_HWCAP) & kDotProduct) != 0;
#elif defined(__APPLE__)
  int present = 0;
  std::size_t size = sizeof(present);
  cpu.neondot = sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, nullptr, 0) == 0 && present != 0;
#elif defined(_M_ARM64)
  constexpr unsigned long kDotProduct = 43;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
  cpu.neondot = IsProcessorFeaturePresent(kDotProduct) != 0;
#endif
#endif
  return cpu;
}

#endif

}  // namespace lw
