// The vocabulary in AVX2 + FMA: a logical vector is two ymm, the lower eight lanes first.
#pragma once

#include <immintrin.h>

namespace lw::LW_ISA {
namespace {

// 6 points x 1 panel = 12 ymm accumulators of 16 registers: 2 ports x 4 cycles of latency need 8.
inline constexpr int kTilePoints = 6;
inline constexpr int kTilePanels = 1;

struct F32 {
  __m256 lo, hi;
};
struct I32 {
  __m256i lo, hi;
};
struct U64 {
  __m256i lo, hi;
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
LW_INLINE I32 select(Mask m, I32 a, I32 b) {
  return {_mm256_blendv_epi8(b.lo, a.lo, _mm256_castps_si256(m.lo)),
          _mm256_blendv_epi8(b.hi, a.hi, _mm256_castps_si256(m.hi))};
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
