// Picks the vocabulary of the ISA that this object is compiled for: the build sets LW_ISA.
//
// Every vocabulary defines, in an unnamed namespace of lw::LW_ISA so that an object exports nothing but its kernels:
//   F32   a logical vector of 16 floats
//     load(p) store(p, v) load_first(p, n) [zeros behind the n-th] set(x)
//     add sub mul fma(a, b, c) [a * b + c, rounded once] select(mask, a, b) [a where the mask is set]
//     greater(a, b) -> Mask, bits(mask) -> 16 bits
//     hadamard(v) [the butterfly stages 1, 2, 4 and 8 inside the vector]
//     sum(v) [lanes folded 16 -> 8 -> 4 -> 2 -> 1, upper half added to lower half]
//   I32   the 16 int32 beside an F32: load_i32 store set_i32 select
//   U64   a logical vector of 8 uint64: load_u64 store set_u64 add bit_xor rotl<R>
//   kTilePoints x kTilePanels   the register tile of the assign kernel
#pragma once

#include "../kernels.h"

#define LW_ISA_ID_scalar 1
#define LW_ISA_ID_avx2 2
#define LW_ISA_ID_avx512 3
#define LW_ISA_ID_neon 4
#define LW_PASTE_RAW(a, b) a##b
#define LW_PASTE(a, b) LW_PASTE_RAW(a, b)
#define LW_ISA_ID LW_PASTE(LW_ISA_ID_, LW_ISA)

#if defined(_MSC_VER) && !defined(__clang__)
#define LW_INLINE __forceinline
#define LW_PREFETCH(address)
#else
#define LW_INLINE inline __attribute__((always_inline))
#define LW_PREFETCH(address) __builtin_prefetch(address)
#endif

#if LW_ISA_ID == 1
#include "scalar.h"
#elif LW_ISA_ID == 2
#include "avx2.h"
#elif LW_ISA_ID == 3
#include "avx512.h"
#elif LW_ISA_ID == 4
#include "neon.h"
#else
#error "LW_ISA must be scalar, avx2, avx512 or neon"
#endif
