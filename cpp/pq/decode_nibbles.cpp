// Codes of four bits as the coordinates of their words: sixteen words stand in a table that a byte shuffle reads.
//
// A column is a byte of every candidate, which is the code of two sub-spaces. One shuffle looks up one coordinate of
// sixteen candidates in each of four columns, and four of them make the quads that products want.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kColumns = 4;  // in a logical vector of 64 bytes

// L is the length of a sub-vector if that is known in advance.
template <std::size_t L>
LW_INLINE void decode(const std::uint8_t* codes, std::size_t n_groups, std::size_t n_bytes, const std::uint8_t* tables,
                      std::size_t any_length, std::size_t n_quads, std::int8_t* out) {
  const std::size_t length = L == 0 ? any_length : L;
  const std::size_t quads = (2 * length + 3) / 4;
  for (std::size_t g = 0; g < n_groups; ++g) {
    const std::uint8_t* table = tables;
    std::int8_t* quad = out + g * n_quads * 4 * kLanes;
    for (std::size_t j = 0; j < n_bytes; j += kColumns, quad += kColumns * quads * 4 * kLanes) {
      const U8 both = load_u8(codes + (g * n_bytes + j) * kLanes);
      const U8 low = low4(both);
      const U8 high = high4(both);
      const auto next = [&](std::size_t d) {
        const U8 coordinate = lookup(load_u8(table), d < length ? low : high);
        table += kColumns * kLanes;
        return coordinate;
      };
      for (std::size_t i = 0; i < quads; ++i) {
        const U8 a = next(4 * i);
        const U8 b = next(4 * i + 1);
        const U8 c = next(4 * i + 2);
        const U8 d = next(4 * i + 3);
        store_quads(quad + i * 4 * kLanes, quads * 4 * kLanes, a, b, c, d);
      }
    }
  }
}

}  // namespace

void decode_nibbles(const std::uint8_t* codes, std::size_t n_groups, std::size_t n_bytes, const std::uint8_t* tables,
                    std::size_t length, std::size_t n_quads, std::int8_t* out) {
  switch (length) {
    case 2:
      return decode<2>(codes, n_groups, n_bytes, tables, length, n_quads, out);
    case 4:
      return decode<4>(codes, n_groups, n_bytes, tables, length, n_quads, out);
    default:
      return decode<0>(codes, n_groups, n_bytes, tables, length, n_quads, out);
  }
}

}  // namespace lw::LW_ISA
