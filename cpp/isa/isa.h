// Picks the vocabulary of the ISA that this object is compiled for: the build sets LW_ISA.
//
// Every vocabulary defines, in an unnamed namespace of lw::LW_ISA so that an object exports nothing but its kernels:
//   F32   a logical vector of 16 floats
//     load(p) store(p, v) load_first(p, n) [zeros behind the n-th] set(x)
//     add sub mul fma(a, b, c) [a * b + c, rounded once] select(mask, a, b) [a where the mask is set]
//     greater(a, b) -> Mask, bits(mask) -> 16 bits; max(a, b) min(a, b), largest(v) [of all lanes]
//     hadamard(v) [the butterfly stages 1, 2, 4 and 8 inside the vector]
//     sum(v) [lanes folded 16 -> 8 -> 4 -> 2 -> 1, upper half added to lower half]
//   I32   the 16 int32 beside an F32: load_i32 store set_i32 select add, shift_left(v, bits), to_f32, sum4(v, out) [all
//   lanes of each of four], round(f) [to nearest, below 2^22], store_i8(p, v) [as 16 bytes, from [-128, 127]]
//     gather(table, i) [entry i[l] of a table of 256 int32 for lane l, i being 16 bytes]
//     dot4(acc, codes, q) [lane l of acc plus the product of codes 4l to 4l + 3 with four codes of q, at an address of
//     64 codes or packed in an int32 for all lanes; q in [-127, 127]. An ISA that multiplies unsigned codes adds
//     kCodeBias to them: the caller takes kCodeBias * (sum of q) off again]
//     dot4_positive(acc, codes, q) [the same for codes in [0, 127] and packed q, without a bias]
//     dot_nibbles4(acc, codes, q) [the same for the low four bits of 64 bytes with 64 codes of q and the high four with
//     the 64 behind them, unsigned and without a bias], dot_crumbs4(acc, codes, q) [and for two bits each, the lowest
//     of 64 bytes first, with four times 64 codes of q] load_bf16(p) -> F32 of 16 bfloat16
//   U8    64 bytes, four for each of 16 candidates: byte 16 i + c is candidate c's. load_u8 add
//     low4 high4 [halves of every byte], lookup(tables, i) [entry i of sixteen, each 16 bytes in a table of their own]
//     store_quads(p, stride, a, b, c, d) [byte 16 i + l of each of a to d, in this order, to p + i * stride + 4 * l]
//     ByteSums  sums of bytes for each candidate, below 2^16: no_bytes() add_bytes(sums, v) total(sums) -> I32
//   U64   a logical vector of 8 uint64: load_u64 store set_u64 add bit_xor rotl<R>
//   kTilePoints x kTilePanels   the register tile of products
//   kAssignPanels   the same for the assign kernel, whose tile may be wider
#pragma once

#include "../kernels.h"
#include "../prefetch.h"

#define LW_ISA_ID_scalar 1
#define LW_ISA_ID_avx2 2
#define LW_ISA_ID_avx512 3
#define LW_ISA_ID_neon 4
#define LW_ISA_ID_avx2vnni 5
#define LW_ISA_ID_avx512vnni 6
#define LW_ISA_ID_neondot 7
#define LW_ISA_ID_amx 8
#define LW_PASTE_RAW(a, b) a##b
#define LW_PASTE(a, b) LW_PASTE_RAW(a, b)
#define LW_ISA_ID LW_PASTE(LW_ISA_ID_, LW_ISA)

#if defined(_MSC_VER) && !defined(__clang__)
#define LW_INLINE __forceinline
#else
#define LW_INLINE inline __attribute__((always_inline))
#endif

// Before a loop: four turns at a time.
#if defined(__clang__)
#define LW_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#elif defined(__GNUC__)
#define LW_UNROLL_4 _Pragma("GCC unroll 4")
#else
#define LW_UNROLL_4
#endif

namespace lw::LW_ISA {
namespace {

// Candidates in a group's mask.
LW_INLINE std::uint64_t count(std::uint16_t mask) {
  std::uint32_t m = mask;
  m -= m >> 1 & 0x5555;
  m = (m & 0x3333) + (m >> 2 & 0x3333);
  m = (m + (m >> 4)) & 0x0F0F;
  return (m + (m >> 8)) & 0x1F;
}

}  // namespace
}  // namespace lw::LW_ISA

#if LW_ISA_ID == 1
#include "scalar.h"
#elif LW_ISA_ID == 2 || LW_ISA_ID == 5
#include "avx2.h"
#elif LW_ISA_ID == 3 || LW_ISA_ID == 6 || LW_ISA_ID == 8
#include "avx512.h"
#elif LW_ISA_ID == 4 || LW_ISA_ID == 7
#include "neon.h"
#else
#error "LW_ISA must be scalar, avx2, avx2vnni, avx512, avx512vnni, amx, neon or neondot"
#endif
