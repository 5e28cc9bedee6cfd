// The vocabulary in AVX-512 (F, BW, DQ, VL; VNNI if this is avx512vnni or amx): a logical vector is one zmm; masks live
// in k registers.
#pragma once

#include <immintrin.h>

namespace lw::LW_ISA {
namespace {

// 8 points x 2 panels: 16 accumulators cover 2 ports x 4 cycles of latency twice, with room for operands.
inline constexpr int kTilePoints = 8;
inline constexpr int kTilePanels = 2;
// 24 accumulators: fewer loads for each product.
inline constexpr int kAssignPanels = 3;

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};
struct U64 {
  __m512i v;
};
struct U8 {
  __m512i v;
};
// Of 16-bit pairs of bytes: `even` has 256 * odd in it, modulo 2^16, until the end.
struct ByteSums {
  __m512i even, odd;
};
struct Mask {
  __mmask16 v;
};

LW_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
LW_INLINE F32 load_first(const float* p, std::size_t n) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p)};
}
LW_INLINE void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
LW_INLINE F32 set(float x) { return {_mm512_set1_ps(x)}; }
LW_INLINE F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
LW_INLINE F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
LW_INLINE F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
LW_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
LW_INLINE F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
LW_INLINE F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
LW_INLINE float largest(F32 a) { return _mm512_reduce_max_ps(a.v); }
LW_INLINE Mask greater(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
LW_INLINE std::uint32_t bits(Mask m) { return m.v; }
LW_INLINE F32 select(Mask m, F32 a, F32 b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }

// A butterfly stage is partner + sign * self, one rounding like the plain addition or subtraction that it is.
LW_INLINE __m512 butterfly_stage(__m512 self, __m512 partner, __mmask16 upper) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_fmadd_ps(self, _mm512_mask_sub_ps(one, upper, _mm512_setzero_ps(), one), partner);
}
LW_INLINE F32 hadamard(F32 a) {
  __m512 r = butterfly_stage(a.v, _mm512_permute_ps(a.v, 0xB1), 0xAAAA);
  r = butterfly_stage(r, _mm512_permute_ps(r, 0x4E), 0xCCCC);
  r = butterfly_stage(r, _mm512_shuffle_f32x4(r, r, 0xB1), 0xF0F0);
  r = butterfly_stage(r, _mm512_shuffle_f32x4(r, r, 0x4E), 0xFF00);
  return {r};
}
LW_INLINE float sum(F32 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

LW_INLINE I32 load_i32(const std::int32_t* p) { return {_mm512_loadu_si512(p)}; }
LW_INLINE void store(std::int32_t* p, I32 a) { _mm512_storeu_si512(p, a.v); }
LW_INLINE I32 set_i32(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
LW_INLINE I32 gather(const std::int32_t* table, const std::uint8_t* index) {
  const __m512i i = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index)));
  return {_mm512_i32gather_epi32(i, table, 4)};
}
LW_INLINE I32 select(Mask m, I32 a, I32 b) { return {_mm512_mask_blend_epi32(m.v, b.v, a.v)}; }

LW_INLINE I32 add(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
LW_INLINE I32 round(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
LW_INLINE void store_i8(std::int8_t* p, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
LW_INLINE F32 to_f32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
LW_INLINE void sum4(const I32* a, std::int32_t* out) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0].v, a[1].v), _mm512_unpackhi_epi32(a[0].v, a[1].v));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2].v, a[3].v), _mm512_unpackhi_epi32(a[2].v, a[3].v));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
LW_INLINE F32 load_bf16(const std::uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
#if LW_ISA_ID == LW_ISA_ID_avx512vnni || LW_ISA_ID == LW_ISA_ID_amx
inline constexpr std::int32_t kCodeBias = 128;
LW_INLINE I32 dot4(I32 acc, __m512i codes, __m512i q) {
  return {_mm512_dpbusd_epi32(acc.v, _mm512_xor_si512(codes, _mm512_set1_epi8(-128)), q)};
}
#else
inline constexpr std::int32_t kCodeBias = 0;
LW_INLINE I32 dot4(I32 acc, __m512i codes, __m512i q) {
  // |code| <= 128 unsigned times q with the code's sign: two products of at most 128 * 127 fit 16 bits.
  const __m512i signed_q = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(codes), _mm512_setzero_si512(), q);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(codes), signed_q);
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
#endif
LW_INLINE I32 dot_nibbles4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  const __m512i v = _mm512_loadu_si512(codes);
  const __m512i mask = _mm512_set1_epi8(0x0F);
  const __m512i low = _mm512_and_si512(v, mask);
  const __m512i high = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
#if LW_ISA_ID == LW_ISA_ID_avx512vnni || LW_ISA_ID == LW_ISA_ID_amx
  return {
      _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(acc.v, low, _mm512_loadu_si512(q)), high, _mm512_loadu_si512(q + 64))};
#else
  // Four products of at most 15 * 127 fit 16 bits.
  const __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(low, _mm512_loadu_si512(q)),
                                         _mm512_maddubs_epi16(high, _mm512_loadu_si512(q + 64)));
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#endif
}
LW_INLINE I32 shift_left(I32 a, std::int32_t bits) { return {_mm512_sll_epi32(a.v, _mm_cvtsi32_si128(bits))}; }
LW_INLINE I32 dot_crumbs4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  const __m512i v = _mm512_loadu_si512(codes);
  const __m512i mask = _mm512_set1_epi8(0x03);
  const __m512i a = _mm512_and_si512(v, mask);
  const __m512i b = _mm512_and_si512(_mm512_srli_epi16(v, 2), mask);
  const __m512i c = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
  const __m512i d = _mm512_and_si512(_mm512_srli_epi16(v, 6), mask);
  const __m512i qa = _mm512_loadu_si512(q);
  const __m512i qb = _mm512_loadu_si512(q + 64);
  const __m512i qc = _mm512_loadu_si512(q + 128);
  const __m512i qd = _mm512_loadu_si512(q + 192);
#if LW_ISA_ID == LW_ISA_ID_avx512vnni || LW_ISA_ID == LW_ISA_ID_amx
  const __m512i ab = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(acc.v, a, qa), b, qb);
  return {_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(ab, c, qc), d, qd)};
#else
  // Eight products of at most 3 * 127 fit 16 bits.
  const __m512i ab = _mm512_add_epi16(_mm512_maddubs_epi16(a, qa), _mm512_maddubs_epi16(b, qb));
  const __m512i cd = _mm512_add_epi16(_mm512_maddubs_epi16(c, qc), _mm512_maddubs_epi16(d, qd));
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(_mm512_add_epi16(ab, cd), _mm512_set1_epi16(1)))};
#endif
}
LW_INLINE I32 dot4(I32 acc, const std::int8_t* codes, std::int32_t q) {
  return dot4(acc, _mm512_loadu_si512(codes), _mm512_set1_epi32(q));
}
LW_INLINE I32 dot4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  return dot4(acc, _mm512_loadu_si512(codes), _mm512_loadu_si512(q));
}
LW_INLINE I32 dot4_positive(I32 acc, const std::int8_t* codes, std::int32_t q) {
#if LW_ISA_ID == LW_ISA_ID_avx512vnni || LW_ISA_ID == LW_ISA_ID_amx
  return {_mm512_dpbusd_epi32(acc.v, _mm512_loadu_si512(codes), _mm512_set1_epi32(q))};
#else
  // Two products of at most 127 * 127 fit 16 bits.
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_loadu_si512(codes), _mm512_set1_epi32(q));
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#endif
}

LW_INLINE U8 load_u8(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
LW_INLINE U8 add(U8 a, U8 b) { return {_mm512_add_epi8(a.v, b.v)}; }
LW_INLINE U8 low4(U8 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
LW_INLINE U8 high4(U8 a) { return low4({_mm512_srli_epi16(a.v, 4)}); }
LW_INLINE U8 lookup(U8 tables, U8 index) { return {_mm512_shuffle_epi8(tables.v, index.v)}; }
LW_INLINE void store_quads(std::int8_t* p, std::size_t stride, U8 a, U8 b, U8 c, U8 d) {
  const __m512i ab[2] = {_mm512_unpacklo_epi8(a.v, b.v), _mm512_unpackhi_epi8(a.v, b.v)};
  const __m512i cd[2] = {_mm512_unpacklo_epi8(c.v, d.v), _mm512_unpackhi_epi8(c.v, d.v)};
  // Four quads of four tables each, which go to four places.
  const __m512i first = _mm512_unpacklo_epi16(ab[0], cd[0]);
  const __m512i second = _mm512_unpackhi_epi16(ab[0], cd[0]);
  const __m512i third = _mm512_unpacklo_epi16(ab[1], cd[1]);
  const __m512i fourth = _mm512_unpackhi_epi16(ab[1], cd[1]);
  const __m512i even[2] = {_mm512_shuffle_i32x4(first, second, 0x44), _mm512_shuffle_i32x4(third, fourth, 0x44)};
  const __m512i odd[2] = {_mm512_shuffle_i32x4(first, second, 0xEE), _mm512_shuffle_i32x4(third, fourth, 0xEE)};
  _mm512_storeu_si512(p, _mm512_shuffle_i32x4(even[0], even[1], 0x88));
  _mm512_storeu_si512(p + stride, _mm512_shuffle_i32x4(even[0], even[1], 0xDD));
  _mm512_storeu_si512(p + 2 * stride, _mm512_shuffle_i32x4(odd[0], odd[1], 0x88));
  _mm512_storeu_si512(p + 3 * stride, _mm512_shuffle_i32x4(odd[0], odd[1], 0xDD));
}
LW_INLINE ByteSums no_bytes() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
LW_INLINE ByteSums add_bytes(ByteSums sums, U8 a) {
  return {_mm512_add_epi16(sums.even, a.v), _mm512_add_epi16(sums.odd, _mm512_srli_epi16(a.v, 8))};
}
LW_INLINE __m128i fold128(__m512i a) {
  const __m256i half = _mm256_add_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  return _mm_add_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
LW_INLINE I32 total(ByteSums sums) {
  const __m128i odd = fold128(sums.odd);
  const __m128i even = _mm_sub_epi16(fold128(sums.even), _mm_slli_epi16(odd, 8));
  const __m256i all = _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd));
  return {_mm512_cvtepu16_epi32(all)};
}

LW_INLINE U64 load_u64(const std::uint64_t* p) { return {_mm512_loadu_si512(p)}; }
LW_INLINE void store(std::uint64_t* p, U64 a) { _mm512_storeu_si512(p, a.v); }
LW_INLINE U64 set_u64(std::uint64_t x) { return {_mm512_set1_epi64(static_cast<long long>(x))}; }
LW_INLINE U64 add(U64 a, U64 b) { return {_mm512_add_epi64(a.v, b.v)}; }
LW_INLINE U64 bit_xor(U64 a, U64 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int R>
LW_INLINE U64 rotl(U64 a) {
  return {_mm512_rol_epi64(a.v, R)};
}

}  // namespace
}  // namespace lw::LW_ISA
