// The vocabulary in NEON (AArch64; with the dot product of Armv8.2 if this is neondot): a logical vector is four q
// registers, the lower lanes first.
#pragma once

#include <arm_neon.h>

namespace lw::LW_ISA {
namespace {

// 4 points x 1 panel = 16 q accumulators of 32 registers: enough for 4 ports x 4 cycles of latency.
inline constexpr int kTilePoints = 4;
inline constexpr int kTilePanels = 1;
inline constexpr int kAssignPanels = 1;

struct F32 {
  float32x4_t v[4];
};
struct I32 {
  int32x4_t v[4];
};
struct U64 {
  uint64x2_t v[4];
};
struct U8 {
  uint8x16_t v[4];
};
struct ByteSums {
  uint16x8_t lo, hi;
};
struct Mask {
  uint32x4_t v[4];
};

LW_INLINE F32 load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
LW_INLINE F32 load_first(const float* p, std::size_t n) {
  float buffer[16] = {};
  for (std::size_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
LW_INLINE void store(float* p, F32 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
LW_INLINE F32 set(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {{v, v, v, v}};
}
LW_INLINE F32 add(F32 a, F32 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vaddq_f32(a.v[i], b.v[i]);
  return a;
}
LW_INLINE F32 sub(F32 a, F32 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vsubq_f32(a.v[i], b.v[i]);
  return a;
}
LW_INLINE F32 mul(F32 a, F32 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vmulq_f32(a.v[i], b.v[i]);
  return a;
}
LW_INLINE F32 fma(F32 a, F32 b, F32 c) {
  for (int i = 0; i < 4; ++i) c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
  return c;
}
LW_INLINE F32 max(F32 a, F32 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vmaxq_f32(a.v[i], b.v[i]);
  return a;
}
LW_INLINE F32 min(F32 a, F32 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vminq_f32(a.v[i], b.v[i]);
  return a;
}
LW_INLINE float largest(F32 a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3]))); }
LW_INLINE Mask greater(F32 a, F32 b) {
  Mask m;
  for (int i = 0; i < 4; ++i) m.v[i] = vcgtq_f32(a.v[i], b.v[i]);
  return m;
}
LW_INLINE std::uint32_t bits(Mask m) {
  const uint32x4_t weight = {1, 2, 4, 8};
  std::uint32_t r = 0;
  for (int i = 0; i < 4; ++i) r |= vaddvq_u32(vandq_u32(m.v[i], weight)) << (4 * i);
  return r;
}
LW_INLINE F32 select(Mask m, F32 a, F32 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vbslq_f32(m.v[i], a.v[i], b.v[i]);
  return a;
}

// A butterfly stage is partner + sign * self, one rounding like the plain addition or subtraction that it is.
LW_INLINE float32x4_t hadamard4(float32x4_t a) {
  const float32x4_t odd = {1, -1, 1, -1};
  const float32x4_t upper = {1, 1, -1, -1};
  a = vfmaq_f32(vrev64q_f32(a), a, odd);
  return vfmaq_f32(vextq_f32(a, a, 2), a, upper);
}
LW_INLINE F32 hadamard(F32 a) {
  for (int i = 0; i < 4; ++i) a.v[i] = hadamard4(a.v[i]);
  const float32x4_t s0 = vaddq_f32(a.v[0], a.v[1]), d0 = vsubq_f32(a.v[0], a.v[1]);
  const float32x4_t s1 = vaddq_f32(a.v[2], a.v[3]), d1 = vsubq_f32(a.v[2], a.v[3]);
  return {{vaddq_f32(s0, s1), vaddq_f32(d0, d1), vsubq_f32(s0, s1), vsubq_f32(d0, d1)}};
}
LW_INLINE float sum(F32 a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

LW_INLINE I32 load_i32(const std::int32_t* p) {
  return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
}
LW_INLINE void store(std::int32_t* p, I32 a) {
  for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.v[i]);
}
LW_INLINE I32 set_i32(std::int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {{v, v, v, v}};
}
LW_INLINE I32 gather(const std::int32_t* table, const std::uint8_t* index) {
  std::int32_t r[16];
  for (int i = 0; i < 16; ++i) r[i] = table[index[i]];
  return load_i32(r);
}
LW_INLINE I32 select(Mask m, I32 a, I32 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vbslq_s32(m.v[i], a.v[i], b.v[i]);
  return a;
}

LW_INLINE I32 add(I32 a, I32 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vaddq_s32(a.v[i], b.v[i]);
  return a;
}
LW_INLINE I32 round(F32 a) {
  I32 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vcvtnq_s32_f32(a.v[i]);
  return r;
}
LW_INLINE void store_i8(std::int8_t* p, I32 a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
LW_INLINE F32 to_f32(I32 a) {
  F32 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vcvtq_f32_s32(a.v[i]);
  return r;
}
LW_INLINE void sum4(const I32* a, std::int32_t* out) {
  for (int i = 0; i < 4; ++i) {
    out[i] = vaddvq_s32(vaddq_s32(vaddq_s32(a[i].v[0], a[i].v[1]), vaddq_s32(a[i].v[2], a[i].v[3])));
  }
}
LW_INLINE F32 load_bf16(const std::uint16_t* p) {
  F32 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
  return r;
}
inline constexpr std::int32_t kCodeBias = 0;
#if LW_ISA_ID == LW_ISA_ID_neondot
LW_INLINE int32x4_t dot4(int32x4_t acc, int8x16_t codes, int8x16_t q) { return vdotq_s32(acc, codes, q); }
#else
LW_INLINE int32x4_t dot4(int32x4_t acc, int8x16_t codes, int8x16_t q) {
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(q)));
  const int32x4_t high = vpaddlq_s16(vmull_high_s8(codes, q));
  return vaddq_s32(acc, vpaddq_s32(low, high));
}
#endif
LW_INLINE I32 dot_nibbles4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t v = vreinterpretq_u8_s8(vld1q_s8(codes + 16 * i));
    const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(0x0F)));
    const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
    acc.v[i] = dot4(dot4(acc.v[i], low, vld1q_s8(q + 16 * i)), high, vld1q_s8(q + 64 + 16 * i));
  }
  return acc;
}
LW_INLINE I32 shift_left(I32 a, std::int32_t bits) {
  for (int i = 0; i < 4; ++i) a.v[i] = vshlq_s32(a.v[i], vdupq_n_s32(bits));
  return a;
}
LW_INLINE I32 dot_crumbs4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  const uint8x16_t mask = vdupq_n_u8(0x03);
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t v = vreinterpretq_u8_s8(vld1q_s8(codes + 16 * i));
    const int8x16_t a = vreinterpretq_s8_u8(vandq_u8(v, mask));
    const int8x16_t b = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 2), mask));
    const int8x16_t c = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 4), mask));
    const int8x16_t d = vreinterpretq_s8_u8(vshrq_n_u8(v, 6));
    const int32x4_t ab = dot4(dot4(acc.v[i], a, vld1q_s8(q + 16 * i)), b, vld1q_s8(q + 64 + 16 * i));
    acc.v[i] = dot4(dot4(ab, c, vld1q_s8(q + 128 + 16 * i)), d, vld1q_s8(q + 192 + 16 * i));
  }
  return acc;
}
LW_INLINE I32 dot4(I32 acc, const std::int8_t* codes, std::int32_t q) {
  const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(q));
  for (int i = 0; i < 4; ++i) acc.v[i] = dot4(acc.v[i], vld1q_s8(codes + 16 * i), v);
  return acc;
}
LW_INLINE I32 dot4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  for (int i = 0; i < 4; ++i) acc.v[i] = dot4(acc.v[i], vld1q_s8(codes + 16 * i), vld1q_s8(q + 16 * i));
  return acc;
}
LW_INLINE I32 dot4_positive(I32 acc, const std::int8_t* codes, std::int32_t q) { return dot4(acc, codes, q); }

LW_INLINE U8 load_u8(const std::uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
LW_INLINE U8 add(U8 a, U8 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vaddq_u8(a.v[i], b.v[i]);
  return a;
}
LW_INLINE U8 low4(U8 a) {
  for (int i = 0; i < 4; ++i) a.v[i] = vandq_u8(a.v[i], vdupq_n_u8(15));
  return a;
}
LW_INLINE U8 high4(U8 a) {
  for (int i = 0; i < 4; ++i) a.v[i] = vshrq_n_u8(a.v[i], 4);
  return a;
}
LW_INLINE U8 lookup(U8 tables, U8 index) {
  for (int i = 0; i < 4; ++i) index.v[i] = vqtbl1q_u8(tables.v[i], index.v[i]);
  return index;
}
LW_INLINE void store_quads(std::int8_t* p, std::size_t stride, U8 a, U8 b, U8 c, U8 d) {
  for (std::size_t i = 0; i < 4; ++i) {
    vst4q_u8(reinterpret_cast<std::uint8_t*>(p + i * stride), (uint8x16x4_t{{a.v[i], b.v[i], c.v[i], d.v[i]}}));
  }
}
LW_INLINE ByteSums no_bytes() { return {vdupq_n_u16(0), vdupq_n_u16(0)}; }
LW_INLINE ByteSums add_bytes(ByteSums sums, U8 a) {
  for (int i = 0; i < 4; ++i) {
    sums.lo = vaddw_u8(sums.lo, vget_low_u8(a.v[i]));
    sums.hi = vaddw_high_u8(sums.hi, a.v[i]);
  }
  return sums;
}
LW_INLINE I32 total(ByteSums sums) {
  const uint32x4_t parts[4] = {vmovl_u16(vget_low_u16(sums.lo)), vmovl_high_u16(sums.lo),
                               vmovl_u16(vget_low_u16(sums.hi)), vmovl_high_u16(sums.hi)};
  I32 r;
  for (int i = 0; i < 4; ++i) r.v[i] = vreinterpretq_s32_u32(parts[i]);
  return r;
}

LW_INLINE U64 load_u64(const std::uint64_t* p) {
  return {{vld1q_u64(p), vld1q_u64(p + 2), vld1q_u64(p + 4), vld1q_u64(p + 6)}};
}
LW_INLINE void store(std::uint64_t* p, U64 a) {
  for (int i = 0; i < 4; ++i) vst1q_u64(p + 2 * i, a.v[i]);
}
LW_INLINE U64 set_u64(std::uint64_t x) {
  const uint64x2_t v = vdupq_n_u64(x);
  return {{v, v, v, v}};
}
LW_INLINE U64 add(U64 a, U64 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vaddq_u64(a.v[i], b.v[i]);
  return a;
}
LW_INLINE U64 bit_xor(U64 a, U64 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = veorq_u64(a.v[i], b.v[i]);
  return a;
}
template <int R>
LW_INLINE U64 rotl(U64 a) {
  for (int i = 0; i < 4; ++i) a.v[i] = vsriq_n_u64(vshlq_n_u64(a.v[i], R), a.v[i], 64 - R);
  return a;
}

}  // namespace
}  // namespace lw::LW_ISA
