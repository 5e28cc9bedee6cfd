// Short rows added up in double precision, each to the sum of its code word, in their order.
//
// Every dimension of a word is a chain of its own, so the compiler's vectors of them cannot change a bit. It makes one
// of a whole row where it knows the length.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

// L is the length of a row if that is known in advance.
template <std::size_t L>
LW_INLINE void add_all(const float* rows, const std::int32_t* labels, std::size_t n, std::size_t any_length,
                       double* sums) {
  const std::size_t length = L == 0 ? any_length : L;
  for (std::size_t i = 0; i < n; ++i) {
    double* const sum = sums + static_cast<std::size_t>(labels[i]) * length;
    const float* const row = rows + i * length;
    for (std::size_t d = 0; d < length; ++d) sum[d] += static_cast<double>(row[d]);
  }
}

}  // namespace

void add_to_words(const float* rows, const std::int32_t* labels, std::size_t n, std::size_t dim, double* sums) {
  switch (dim) {
    case 2:
      return add_all<2>(rows, labels, n, dim, sums);
    case 4:
      return add_all<4>(rows, labels, n, dim, sums);
    case 8:
      return add_all<8>(rows, labels, n, dim, sums);
    case 16:
      return add_all<16>(rows, labels, n, dim, sums);
    default:
      return add_all<0>(rows, labels, n, dim, sums);
  }
}

}  // namespace lw::LW_ISA
