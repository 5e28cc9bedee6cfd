// The nearest of a few hundred short code words: what trains and encodes product quantisers.
#include "nearest_words.h"

namespace lw::LW_ISA {

void nearest_words(const float* points, std::size_t n_groups, std::size_t dim, const float* words, const float* bias,
                   std::size_t n_words, std::int32_t* labels) {
  nearest_by_floats(points, n_groups, dim, words, bias, n_words, labels);
}

}  // namespace lw::LW_ISA
