// The first pass over sign bits: what a byte of them adds to a product stands in two tables, which a byte shuffle
// reads.
//
// A byte holds eight bits of one candidate, sixteen candidates lie side by side, and so one shuffle looks up four bits
// of every candidate. Entries are small enough for four to be added up in a byte, and the sums of kColumns bytes in
// sixteen bits: all of it is exact.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kVector = 4;     // bytes of every candidate in a logical vector of 64
constexpr std::size_t kColumns = 512;  // 2 * kColumns entries of at most kBitEntry stay below 2^16
constexpr std::size_t kAhead = 2048;

}  // namespace

void screen_bits(const BitRows& rows, std::size_t n_groups, const BitQuery& query, float limit, std::uint16_t* alive,
                 float* estimates) {
  const F32 highest = set(limit);
  const F32 step = set(-query.step);
  const std::size_t stride = rows.n_bytes * kLanes;
  for (std::size_t g = 0; g < n_groups; ++g) {
    if (alive[g] == 0) continue;
    I32 product = set_i32(-query.total);
    for (std::size_t begin = 0; begin < rows.n_bytes; begin += kColumns) {
      const std::size_t end = begin + kColumns < rows.n_bytes ? begin + kColumns : rows.n_bytes;
      ByteSums sums = no_bytes();
      for (std::size_t j = begin; j < end; j += 2 * kVector) {
        const std::uint8_t* const codes = rows.bits + g * stride + j * kLanes;
        const std::uint8_t* const tables = query.tables + 2 * j * kLanes;
        LW_PREFETCH(codes + kAhead);
        LW_PREFETCH(codes + kAhead + 64);
        const U8 first = load_u8(codes);
        const U8 second = load_u8(codes + 64);
        const U8 a = add(lookup(load_u8(tables), low4(first)), lookup(load_u8(tables + 64), high4(first)));
        const U8 b = add(lookup(load_u8(tables + 128), low4(second)), lookup(load_u8(tables + 192), high4(second)));
        sums = add_bytes(sums, add(a, b));
      }
      const I32 matched = total(sums);
      product = add(product, add(matched, matched));
    }
    const std::size_t at = g * kLanes;
    const F32 part = mul(step, to_f32(product));
    const F32 estimate = fma(load_bf16(rows.factors + at), part, load(rows.base + at));
    alive[g] &= static_cast<std::uint16_t>(bits(greater(highest, estimate)));
    if (alive[g] != 0) store(estimates + at, estimate);
  }
}

}  // namespace lw::LW_ISA
