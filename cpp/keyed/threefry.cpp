// Threefry2x64-13, eight counters at a time (Salmon et al. 2011): additions, rotations and exclusive-ors only.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

struct State {
  U64 x0, x1;
};

template <int R>
LW_INLINE void round(State& s) {
  s.x0 = add(s.x0, s.x1);
  s.x1 = bit_xor(rotl<R>(s.x1), s.x0);
}

LW_INLINE void inject(State& s, U64 a, U64 b) {
  s.x0 = add(s.x0, a);
  s.x1 = add(s.x1, b);
}

}  // namespace

void threefry(const std::uint64_t key[2], const std::uint64_t* counter0, std::uint64_t counter1, std::size_t n,
              std::uint64_t* out0, std::uint64_t* out1) {
  constexpr std::uint64_t kParity = 0x1BD11BDAA9FC1A22;
  const std::uint64_t key2 = kParity ^ key[0] ^ key[1];
  const U64 k0 = set_u64(key[0]);
  const U64 x1_start = set_u64(counter1 + key[1]);
  const U64 after4[2] = {set_u64(key[1]), set_u64(key2 + 1)};
  const U64 after8[2] = {set_u64(key2), set_u64(key[0] + 2)};
  const U64 after12[2] = {set_u64(key[0]), set_u64(key[1] + 3)};
  for (std::size_t i = 0; i < n; i += 8) {
    State s{add(load_u64(counter0 + i), k0), x1_start};
    round<16>(s), round<42>(s), round<12>(s), round<31>(s);
    inject(s, after4[0], after4[1]);
    round<16>(s), round<32>(s), round<24>(s), round<21>(s);
    inject(s, after8[0], after8[1]);
    round<16>(s), round<42>(s), round<12>(s), round<31>(s);
    inject(s, after12[0], after12[1]);
    round<16>(s);
    store(out0 + i, s.x0);
    store(out1 + i, s.x1);
  }
}

}  // namespace lw::LW_ISA
