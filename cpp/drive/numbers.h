// Small number formats and sums in double precision for what drivers prepare.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace lw {

inline float from_bf16(std::uint16_t x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16); }

// A positive number as a bfloat16: the nearest, or with 0xFFFF for `half` the next one above.
inline std::uint16_t to_bf16(double x, std::uint32_t half = 0x7FFF) {
  const auto word = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  return static_cast<std::uint16_t>(std::min<std::uint32_t>((word + half) >> 16, 0x7F7F));
}

// The code of a coordinate: the whole number of steps nearest to it, from -largest to largest; 0 without a step.
inline double nearest_code(double x, float step, double largest) {
  return step > 0 ? std::clamp(std::nearbyint(x / static_cast<double>(step)), -largest, largest) : 0.0;
}

// The same in float arithmetic, for many of them: the whole number nearest to x, from -largest to largest, which is
// below 2^22; one of those if x is no number.
inline std::int32_t rounded(float x, std::int32_t largest) {
  // Added to 1.5 * 2^23, a float has no bits left behind the point: they are rounded off as every sum is.
  constexpr float kMagic = 12582912.0f;
  const auto most = static_cast<float>(largest);
  return static_cast<std::int32_t>((std::min(std::max(-most, x), most) + kMagic) - kMagic);
}

// How much of itself a squared canonical distance (rows.h) may be off.
inline double canonical_error(std::size_t dim) { return (static_cast<double>(dim) / 16 + 10) * 0x1p-24 * 1.02; }

// The sum of term(d) over n dimensions, in eight chains.
template <class Term>
double sum_of(std::size_t n, const Term& term) {
  double sum[8] = {};
  std::size_t d = 0;
  for (; d + 8 <= n; d += 8) {
    for (std::size_t i = 0; i < 8; ++i) sum[i] += term(d + i);
  }
  for (; d < n; ++d) sum[0] += term(d);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// x - center for n vectors, written `stride` floats apart; zero where x is null.
inline void center_rows(const float* const* x, std::size_t n, const float* center, std::size_t dim, std::size_t stride,
                        float* out) {
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t d = 0; d < dim; ++d) out[i * stride + d] = x[i] == nullptr ? 0.0f : x[i][d] - center[d];
  }
}

inline double dot(const float* a, const float* b, std::size_t n) {
  return sum_of(n, [&](std::size_t d) { return static_cast<double>(a[d]) * static_cast<double>(b[d]); });
}

// |x - center|^2
inline double centered_norm2(const float* x, const float* center, std::size_t n) {
  return sum_of(n, [&](std::size_t d) {
    const double difference = static_cast<double>(x[d]) - static_cast<double>(center[d]);
    return difference * difference;
  });
}

}  // namespace lw
