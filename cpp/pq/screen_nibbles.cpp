// The first pass over product codes of four bits for one query: what a code adds to the product stands in sixteen
// entries, which byte shuffles read.
//
// Entries have fifteen bits, and so there are two tables: of their low bytes and of their high ones. Both are added up
// in sixteen bits, which is exact: the sum is the very product of the decoded row with the query's codes.
#include "estimate.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kVector = 4;     // bytes of every candidate in a logical vector of 64
constexpr std::size_t kColumns = 128;  // 2 * kColumns entries of at most 255 stay below 2^16
constexpr std::size_t kAhead = 2048;

}  // namespace

void screen_nibbles(const BitRows& rows, std::size_t n_groups, const NibbleQuery& query, float limit,
                    std::uint16_t* alive, float* estimates) {
  const F32 highest = set(limit);
  const F32 step = set(-query.step);
  const std::size_t stride = rows.n_bytes * kLanes;
  for (std::size_t g = 0; g < n_groups; ++g) {
    if (alive[g] == 0) continue;
    I32 product = set_i32(-query.total);
    for (std::size_t begin = 0; begin < rows.n_bytes; begin += kColumns) {
      const std::size_t end = begin + kColumns < rows.n_bytes ? begin + kColumns : rows.n_bytes;
      ByteSums low = no_bytes();
      ByteSums high = no_bytes();
      for (std::size_t j = begin; j < end; j += kVector) {
        const std::uint8_t* const codes = rows.bits + g * stride + j * kLanes;
        const std::uint8_t* const tables = query.tables + 4 * j * kLanes;
        LW_PREFETCH(codes + kAhead);
        const U8 both = load_u8(codes);
        const U8 first = low4(both);
        const U8 second = high4(both);
        low = add_bytes(low, lookup(load_u8(tables), first));
        low = add_bytes(low, lookup(load_u8(tables + 128), second));
        // Two high bytes of fifteen bits fit in one.
        high = add_bytes(high, add(lookup(load_u8(tables + 64), first), lookup(load_u8(tables + 192), second)));
      }
      product = add(product, add(total(low), shift_left(total(high), 8)));
    }
    const std::size_t at = g * kLanes;
    const F32 estimate = value_of(load(rows.base + at), load_bf16(rows.factors + at), step, product);
    alive[g] &= static_cast<std::uint16_t>(bits(greater(highest, estimate)));
    if (alive[g] != 0) store(estimates + at, estimate);
  }
}

}  // namespace lw::LW_ISA
