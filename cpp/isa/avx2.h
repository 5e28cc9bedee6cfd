// The vocabulary in AVX2 + FMA (and AVX-VNNI if this is avx2vnni): a logical vector is two ymm, the lower eight lanes
// first.
#pragma once

#include <immintrin.h>

namespace lw::LW_ISA {
namespace {

// 6 points x 1 panel = 12 ymm accumulators of 16 registers: 2 ports x 4 cycles of latency need 8.
inline constexpr int kTilePoints = 6;
inline constexpr int kTilePanels = 1;
inline constexpr int kAssignPanels = 1;

struct F32 {
  __m256 lo, hi;
};
struct I32 {
  __m256i lo, hi;
};
struct U64 {
  __m256i lo, hi;
};
struct U8 {
  __m256i lo, hi;
};
// Of 16-bit pairs of bytes: `even` has 256 * odd in it, modulo 2^16, until the end.
struct ByteSums {
  __m256i even, odd;
};
struct Mask {
  __m256 lo, hi;
};

LW_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
LW_INLINE F32 load_first(const float* p, std::size_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i count = _mm256_set1_epi32(static_cast<int>(n));
  const __m256i lo = _mm256_cmpgt_epi32(count, lane);
  const __m256i hi = _mm256_cmpgt_epi32(count, _mm256_add_epi32(lane, _mm256_set1_epi32(8)));
  return {_mm256_maskload_ps(p, lo), _mm256_maskload_ps(p + 8, hi)};
}
LW_INLINE void store(float* p, F32 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
LW_INLINE F32 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
LW_INLINE F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
LW_INLINE F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
LW_INLINE F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
LW_INLINE F32 fma(F32 a, F32 b, F32 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
LW_INLINE F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
LW_INLINE F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
LW_INLINE float largest(F32 a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
LW_INLINE Mask greater(F32 a, F32 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ)};
}
LW_INLINE std::uint32_t bits(Mask m) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(m.lo)) | static_cast<std::uint32_t>(_mm256_movemask_ps(m.hi))
                                                                    << 8;
}
LW_INLINE F32 select(Mask m, F32 a, F32 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}

// A butterfly stage is partner + sign * self, one rounding like the plain addition or subtraction that it is.
LW_INLINE __m256 hadamard8(__m256 a) {
  const __m256 odd = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
  const __m256 second = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
  const __m256 upper = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
  a = _mm256_fmadd_ps(a, odd, _mm256_permute_ps(a, 0xB1));
  a = _mm256_fmadd_ps(a, second, _mm256_permute_ps(a, 0x4E));
  return _mm256_fmadd_ps(a, upper, _mm256_permute2f128_ps(a, a, 0x01));
}
LW_INLINE F32 hadamard(F32 a) {
  const __m256 lo = hadamard8(a.lo);
  const __m256 hi = hadamard8(a.hi);
  return {_mm256_add_ps(lo, hi), _mm256_sub_ps(lo, hi)};
}
LW_INLINE float sum(F32 a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

LW_INLINE __m256i load_si256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
LW_INLINE void store_si256(void* p, __m256i a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }

LW_INLINE I32 load_i32(const std::int32_t* p) { return {load_si256(p), load_si256(p + 8)}; }
LW_INLINE void store(std::int32_t* p, I32 a) {
  store_si256(p, a.lo);
  store_si256(p + 8, a.hi);
}
LW_INLINE I32 set_i32(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
LW_INLINE I32 gather(const std::int32_t* table, const std::uint8_t* index) {
  const __m128i i = _mm_loadu_si128(reinterpret_cast<const __m128i*>(index));
  return {_mm256_i32gather_epi32(table, _mm256_cvtepu8_epi32(i), 4),
          _mm256_i32gather_epi32(table, _mm256_cvtepu8_epi32(_mm_srli_si128(i, 8)), 4)};
}
LW_INLINE I32 select(Mask m, I32 a, I32 b) {
  return {_mm256_blendv_epi8(b.lo, a.lo, _mm256_castps_si256(m.lo)),
          _mm256_blendv_epi8(b.hi, a.hi, _mm256_castps_si256(m.hi))};
}

LW_INLINE I32 add(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
LW_INLINE I32 round(F32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
LW_INLINE void store_i8(std::int8_t* p, I32 a) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xD8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
LW_INLINE F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
LW_INLINE void sum4(const I32* a, std::int32_t* out) {
  const __m256i ab = _mm256_hadd_epi32(_mm256_add_epi32(a[0].lo, a[0].hi), _mm256_add_epi32(a[1].lo, a[1].hi));
  const __m256i cd = _mm256_hadd_epi32(_mm256_add_epi32(a[2].lo, a[2].hi), _mm256_add_epi32(a[3].lo, a[3].hi));
  const __m256i all = _mm256_hadd_epi32(ab, cd);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}
LW_INLINE __m256 widen_bf16(__m128i a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16)); }
LW_INLINE F32 load_bf16(const std::uint16_t* p) {
  const __m256i v = load_si256(p);
  return {widen_bf16(_mm256_castsi256_si128(v)), widen_bf16(_mm256_extracti128_si256(v, 1))};
}
#if LW_ISA_ID == LW_ISA_ID_avx2vnni
inline constexpr std::int32_t kCodeBias = 128;
LW_INLINE __m256i dot4(__m256i acc, __m256i codes, __m256i q) {
  return _mm256_dpbusd_avx_epi32(acc, _mm256_xor_si256(codes, _mm256_set1_epi8(-128)), q);
}
#else
inline constexpr std::int32_t kCodeBias = 0;
LW_INLINE __m256i dot4(__m256i acc, __m256i codes, __m256i q) {
  // |code| <= 128 unsigned times q with the code's sign: two products of at most 128 * 127 fit 16 bits.
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(q, codes));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
LW_INLINE __m256i dot_nibbles4(__m256i acc, __m256i codes, __m256i q_low, __m256i q_high) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  const __m256i low = _mm256_and_si256(codes, mask);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
#if LW_ISA_ID == LW_ISA_ID_avx2vnni
  return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, low, q_low), high, q_high);
#else
  // Four products of at most 15 * 127 fit 16 bits.
  const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, q_low), _mm256_maddubs_epi16(high, q_high));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
LW_INLINE I32 dot_nibbles4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  return {dot_nibbles4(acc.lo, load_si256(codes), load_si256(q), load_si256(q + 64)),
          dot_nibbles4(acc.hi, load_si256(codes + 32), load_si256(q + 32), load_si256(q + 96))};
}
LW_INLINE I32 shift_left(I32 a, std::int32_t bits) {
  const __m128i n = _mm_cvtsi32_si128(bits);
  return {_mm256_sll_epi32(a.lo, n), _mm256_sll_epi32(a.hi, n)};
}
LW_INLINE __m256i dot_crumbs4(__m256i acc, __m256i codes, const std::int8_t* q) {
  const __m256i mask = _mm256_set1_epi8(0x03);
  const __m256i a = _mm256_and_si256(codes, mask);
  const __m256i b = _mm256_and_si256(_mm256_srli_epi16(codes, 2), mask);
  const __m256i c = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
  const __m256i d = _mm256_and_si256(_mm256_srli_epi16(codes, 6), mask);
#if LW_ISA_ID == LW_ISA_ID_avx2vnni
  acc = _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, a, load_si256(q)), b, load_si256(q + 64));
  return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, c, load_si256(q + 128)), d, load_si256(q + 192));
#else
  // Eight products of at most 3 * 127 fit 16 bits.
  const __m256i ab =
      _mm256_add_epi16(_mm256_maddubs_epi16(a, load_si256(q)), _mm256_maddubs_epi16(b, load_si256(q + 64)));
  const __m256i cd =
      _mm256_add_epi16(_mm256_maddubs_epi16(c, load_si256(q + 128)), _mm256_maddubs_epi16(d, load_si256(q + 192)));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_add_epi16(ab, cd), _mm256_set1_epi16(1)));
#endif
}
LW_INLINE I32 dot_crumbs4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  return {dot_crumbs4(acc.lo, load_si256(codes), q), dot_crumbs4(acc.hi, load_si256(codes + 32), q + 32)};
}
LW_INLINE I32 dot4(I32 acc, const std::int8_t* codes, std::int32_t q) {
  const __m256i v = _mm256_set1_epi32(q);
  return {dot4(acc.lo, load_si256(codes), v), dot4(acc.hi, load_si256(codes + 32), v)};
}
LW_INLINE I32 dot4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  return {dot4(acc.lo, load_si256(codes), load_si256(q)), dot4(acc.hi, load_si256(codes + 32), load_si256(q + 32))};
}
LW_INLINE __m256i dot4_positive(__m256i acc, __m256i codes, __m256i q) {
#if LW_ISA_ID == LW_ISA_ID_avx2vnni
  return _mm256_dpbusd_avx_epi32(acc, codes, q);
#else
  // Two products of at most 127 * 127 fit 16 bits.
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, q), _mm256_set1_epi16(1)));
#endif
}
LW_INLINE I32 dot4_positive(I32 acc, const std::int8_t* codes, std::int32_t q) {
  const __m256i v = _mm256_set1_epi32(q);
  return {dot4_positive(acc.lo, load_si256(codes), v), dot4_positive(acc.hi, load_si256(codes + 32), v)};
}

LW_INLINE U8 load_u8(const std::uint8_t* p) { return {load_si256(p), load_si256(p + 32)}; }
LW_INLINE U8 add(U8 a, U8 b) { return {_mm256_add_epi8(a.lo, b.lo), _mm256_add_epi8(a.hi, b.hi)}; }
LW_INLINE U8 low4(U8 a) {
  const __m256i low = _mm256_set1_epi8(15);
  return {_mm256_and_si256(a.lo, low), _mm256_and_si256(a.hi, low)};
}
LW_INLINE U8 high4(U8 a) { return low4({_mm256_srli_epi16(a.lo, 4), _mm256_srli_epi16(a.hi, 4)}); }
LW_INLINE U8 lookup(U8 tables, U8 index) {
  return {_mm256_shuffle_epi8(tables.lo, index.lo), _mm256_shuffle_epi8(tables.hi, index.hi)};
}
LW_INLINE void store_quads(std::int8_t* p, std::size_t stride, __m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i ab[2] = {_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
  const __m256i cd[2] = {_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d)};
  for (int i = 0; i < 2; ++i) {
    const __m256i low = _mm256_unpacklo_epi16(ab[i], cd[i]);
    const __m256i high = _mm256_unpackhi_epi16(ab[i], cd[i]);
    store_si256(p + 32 * i, _mm256_permute2x128_si256(low, high, 0x20));
    store_si256(p + stride + 32 * static_cast<std::size_t>(i), _mm256_permute2x128_si256(low, high, 0x31));
  }
}
LW_INLINE void store_quads(std::int8_t* p, std::size_t stride, U8 a, U8 b, U8 c, U8 d) {
  store_quads(p, stride, a.lo, b.lo, c.lo, d.lo);
  store_quads(p + 2 * stride, stride, a.hi, b.hi, c.hi, d.hi);
}
LW_INLINE ByteSums no_bytes() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
LW_INLINE ByteSums add_bytes(ByteSums sums, U8 a) {
  const __m256i odd = _mm256_add_epi16(_mm256_srli_epi16(a.lo, 8), _mm256_srli_epi16(a.hi, 8));
  return {_mm256_add_epi16(sums.even, _mm256_add_epi16(a.lo, a.hi)), _mm256_add_epi16(sums.odd, odd)};
}
LW_INLINE I32 total(ByteSums sums) {
  const __m256i pure = _mm256_sub_epi16(sums.even, _mm256_slli_epi16(sums.odd, 8));
  const __m128i even = _mm_add_epi16(_mm256_castsi256_si128(pure), _mm256_extracti128_si256(pure, 1));
  const __m128i odd = _mm_add_epi16(_mm256_castsi256_si128(sums.odd), _mm256_extracti128_si256(sums.odd, 1));
  return {_mm256_cvtepu16_epi32(_mm_unpacklo_epi16(even, odd)), _mm256_cvtepu16_epi32(_mm_unpackhi_epi16(even, odd))};
}

LW_INLINE U64 load_u64(const std::uint64_t* p) { return {load_si256(p), load_si256(p + 4)}; }
LW_INLINE void store(std::uint64_t* p, U64 a) {
  store_si256(p, a.lo);
  store_si256(p + 4, a.hi);
}
LW_INLINE U64 set_u64(std::uint64_t x) {
  const __m256i v = _mm256_set1_epi64x(static_cast<long long>(x));
  return {v, v};
}
LW_INLINE U64 add(U64 a, U64 b) { return {_mm256_add_epi64(a.lo, b.lo), _mm256_add_epi64(a.hi, b.hi)}; }
LW_INLINE U64 bit_xor(U64 a, U64 b) { return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)}; }
template <int R>
LW_INLINE __m256i rotl256(__m256i a) {
  return _mm256_or_si256(_mm256_slli_epi64(a, R), _mm256_srli_epi64(a, 64 - R));
}
template <int R>
LW_INLINE U64 rotl(U64 a) {
  return {rotl256<R>(a.lo), rotl256<R>(a.hi)};
}

}  // namespace
}  // namespace lw::LW_ISA
