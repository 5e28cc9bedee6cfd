// The vocabulary in plain C++: the reference that every other ISA must equal bit for bit.
#pragma once

#include <math.h>

#include <cstring>

namespace lw::LW_ISA {
namespace {

inline constexpr int kTilePoints = 2;
inline constexpr int kTilePanels = 1;
inline constexpr int kAssignPanels = 1;

struct F32 {
  float v[16];
};
struct I32 {
  std::int32_t v[16];
};
struct U64 {
  std::uint64_t v[8];
};
struct U8 {
  std::uint8_t v[64];
};
struct ByteSums {
  std::uint16_t v[16];
};
struct Mask {
  std::uint32_t v;
};

LW_INLINE F32 load(const float* p) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = p[i];
  return r;
}
LW_INLINE F32 load_first(const float* p, std::size_t n) {
  F32 r;
  for (std::size_t i = 0; i < 16; ++i) r.v[i] = i < n ? p[i] : 0.0f;
  return r;
}
LW_INLINE void store(float* p, const F32& a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
LW_INLINE F32 set(float x) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = x;
  return r;
}
LW_INLINE F32 add(const F32& a, const F32& b) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] + b.v[i];
  return r;
}
LW_INLINE F32 sub(const F32& a, const F32& b) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] - b.v[i];
  return r;
}
LW_INLINE F32 mul(const F32& a, const F32& b) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] * b.v[i];
  return r;
}
LW_INLINE F32 fma(const F32& a, const F32& b, const F32& c) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = ::fmaf(a.v[i], b.v[i], c.v[i]);
  return r;
}
LW_INLINE F32 max(const F32& a, const F32& b) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return r;
}
LW_INLINE F32 min(const F32& a, const F32& b) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return r;
}
LW_INLINE float largest(const F32& a) {
  float r = a.v[0];
  for (int i = 1; i < 16; ++i) r = a.v[i] > r ? a.v[i] : r;
  return r;
}
LW_INLINE Mask greater(const F32& a, const F32& b) {
  Mask m{0};
  for (int i = 0; i < 16; ++i) m.v |= static_cast<std::uint32_t>(a.v[i] > b.v[i]) << i;
  return m;
}
LW_INLINE std::uint32_t bits(const Mask& m) { return m.v; }
LW_INLINE F32 select(const Mask& m, const F32& a, const F32& b) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = (m.v >> i & 1) != 0 ? a.v[i] : b.v[i];
  return r;
}
LW_INLINE F32 hadamard(F32 a) {
  for (int h = 1; h < 16; h *= 2) {
    for (int i = 0; i < 16; i += 2 * h) {
      for (int j = i; j < i + h; ++j) {
        const float low = a.v[j];
        const float high = a.v[j + h];
        a.v[j] = low + high;
        a.v[j + h] = low - high;
      }
    }
  }
  return a;
}
LW_INLINE float sum(F32 a) {
  for (int h = 8; h >= 1; h /= 2) {
    for (int i = 0; i < h; ++i) a.v[i] = a.v[i] + a.v[i + h];
  }
  return a.v[0];
}

LW_INLINE I32 load_i32(const std::int32_t* p) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = p[i];
  return r;
}
LW_INLINE void store(std::int32_t* p, const I32& a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
LW_INLINE I32 set_i32(std::int32_t x) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = x;
  return r;
}
LW_INLINE I32 gather(const std::int32_t* table, const std::uint8_t* index) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = table[index[i]];
  return r;
}
LW_INLINE I32 select(const Mask& m, const I32& a, const I32& b) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = (m.v >> i & 1) != 0 ? a.v[i] : b.v[i];
  return r;
}

LW_INLINE I32 add(const I32& a, const I32& b) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] + b.v[i];
  return r;
}
LW_INLINE I32 round(const F32& a) {
  // Added to 1.5 * 2^23, a float has no bits left behind the point: they are rounded off as every sum is.
  constexpr float kMagic = 12582912.0f;
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<std::int32_t>((a.v[i] + kMagic) - kMagic);
  return r;
}
LW_INLINE void store_i8(std::int8_t* p, const I32& a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(a.v[i]);
}
LW_INLINE F32 to_f32(const I32& a) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
LW_INLINE void sum4(const I32* a, std::int32_t* out) {
  for (int i = 0; i < 4; ++i) {
    out[i] = 0;
    for (int l = 0; l < 16; ++l) out[i] += a[i].v[l];
  }
}
LW_INLINE F32 load_bf16(const std::uint16_t* p) {
  F32 r;
  for (int i = 0; i < 16; ++i) {
    const std::uint32_t word = static_cast<std::uint32_t>(p[i]) << 16;
    std::memcpy(&r.v[i], &word, sizeof(word));
  }
  return r;
}
inline constexpr std::int32_t kCodeBias = 0;
LW_INLINE I32 dot4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  for (int i = 0; i < 64; ++i) acc.v[i / 4] += codes[i] * q[i];
  return acc;
}
LW_INLINE I32 dot_nibbles4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  for (int i = 0; i < 64; ++i) {
    const int byte = static_cast<std::uint8_t>(codes[i]);
    acc.v[i / 4] += (byte & 15) * q[i] + (byte >> 4) * q[64 + i];
  }
  return acc;
}
LW_INLINE I32 shift_left(I32 a, std::int32_t bits) {
  for (int i = 0; i < 16; ++i) a.v[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) << bits);
  return a;
}
LW_INLINE I32 dot_crumbs4(I32 acc, const std::int8_t* codes, const std::int8_t* q) {
  for (int i = 0; i < 256; ++i) {
    acc.v[i % 64 / 4] += (static_cast<std::uint8_t>(codes[i % 64]) >> i / 64 * 2 & 3) * q[i];
  }
  return acc;
}
LW_INLINE I32 dot4(I32 acc, const std::int8_t* codes, std::int32_t q) {
  std::int8_t four[4];
  std::memcpy(four, &q, sizeof(q));
  for (int i = 0; i < 64; ++i) acc.v[i / 4] += codes[i] * four[i % 4];
  return acc;
}
LW_INLINE I32 dot4_positive(const I32& acc, const std::int8_t* codes, std::int32_t q) { return dot4(acc, codes, q); }

LW_INLINE U8 load_u8(const std::uint8_t* p) {
  U8 r;
  for (int i = 0; i < 64; ++i) r.v[i] = p[i];
  return r;
}
LW_INLINE U8 add(const U8& a, const U8& b) {
  U8 r;
  for (int i = 0; i < 64; ++i) r.v[i] = static_cast<std::uint8_t>(a.v[i] + b.v[i]);
  return r;
}
LW_INLINE U8 low4(const U8& a) {
  U8 r;
  for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] & 15;
  return r;
}
LW_INLINE U8 high4(const U8& a) {
  U8 r;
  for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] >> 4;
  return r;
}
LW_INLINE U8 lookup(const U8& tables, const U8& index) {
  U8 r;
  for (int i = 0; i < 64; ++i) r.v[i] = tables.v[i / 16 * 16 + index.v[i]];
  return r;
}
LW_INLINE void store_quads(std::int8_t* p, std::size_t stride, const U8& a, const U8& b, const U8& c, const U8& d) {
  for (int i = 0; i < 64; ++i) {
    std::int8_t* const quad = p + static_cast<std::size_t>(i / 16) * stride + i % 16 * 4;
    quad[0] = static_cast<std::int8_t>(a.v[i]);
    quad[1] = static_cast<std::int8_t>(b.v[i]);
    quad[2] = static_cast<std::int8_t>(c.v[i]);
    quad[3] = static_cast<std::int8_t>(d.v[i]);
  }
}
LW_INLINE ByteSums no_bytes() { return {}; }
LW_INLINE ByteSums add_bytes(ByteSums sums, const U8& a) {
  for (int i = 0; i < 64; ++i) sums.v[i % 16] = static_cast<std::uint16_t>(sums.v[i % 16] + a.v[i]);
  return sums;
}
LW_INLINE I32 total(const ByteSums& sums) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = sums.v[i];
  return r;
}

LW_INLINE U64 load_u64(const std::uint64_t* p) {
  U64 r;
  for (int i = 0; i < 8; ++i) r.v[i] = p[i];
  return r;
}
LW_INLINE void store(std::uint64_t* p, const U64& a) {
  for (int i = 0; i < 8; ++i) p[i] = a.v[i];
}
LW_INLINE U64 set_u64(std::uint64_t x) {
  U64 r;
  for (int i = 0; i < 8; ++i) r.v[i] = x;
  return r;
}
LW_INLINE U64 add(const U64& a, const U64& b) {
  U64 r;
  for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] + b.v[i];
  return r;
}
LW_INLINE U64 bit_xor(const U64& a, const U64& b) {
  U64 r;
  for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] ^ b.v[i];
  return r;
}
template <int R>
LW_INLINE U64 rotl(const U64& a) {
  U64 r;
  for (int i = 0; i < 8; ++i) r.v[i] = a.v[i] << R | a.v[i] >> (64 - R);
  return r;
}

}  // namespace
}  // namespace lw::LW_ISA
