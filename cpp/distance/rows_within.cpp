// The canonical squared distance of rows that may be left half-way: what is summed up already exceeds a bound.
#include <limits>

#include "../isa/isa.h"

namespace lw::LW_ISA {

void l2_rows_within(const float* query, const float* rows, const std::int64_t* ids, std::size_t n, std::size_t dim,
                    const float* bounds, std::size_t step, const float* factors, float* out) {
  constexpr float left = std::numeric_limits<float>::infinity();
  constexpr std::size_t kAhead = 2;
  // With factors for the looks of a walk, as measured: it reads most rows to the end.
  const std::size_t asked_for = (factors == nullptr ? 2 : 16) * step;
  const auto at = [&](std::size_t i) { return rows + static_cast<std::size_t>(ids[i]) * dim; };
  const std::size_t whole = dim / kLanes * kLanes;
  for (std::size_t i = 0; i < n; ++i) {
    if (i + kAhead < n) {
      for (std::size_t d = 0; d < dim && d < asked_for; d += kLanes) LW_PREFETCH(at(i + kAhead) + d);
    }
    const float* const row = at(i);
    F32 partial = set(0.0f);
    bool beyond = false;
    std::size_t look = 0;
    for (std::size_t d = 0; d < whole && !beyond; ++look) {
      const std::size_t end = d + step < whole ? d + step : whole;
      for (; d < end; d += kLanes) {
        const F32 difference = sub(load(query + d), load(row + d));
        partial = fma(difference, difference, partial);
      }
      beyond = sum(partial) > (factors == nullptr ? bounds[i] : bounds[i] * factors[look]);
    }
    if (whole < dim && !beyond) {
      const F32 difference = sub(load_first(query + whole, dim - whole), load_first(row + whole, dim - whole));
      partial = fma(difference, difference, partial);
    }
    out[i] = beyond ? left : sum(partial);
  }
}

}  // namespace lw::LW_ISA
