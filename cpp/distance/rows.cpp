// The canonical distance of whole rows: sixteen strided chains per row, four rows at a time to hide their latency.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

struct SquaredL2 {
  static LW_INLINE F32 step(F32 q, F32 x, F32 sum) {
    const F32 difference = sub(q, x);
    return fma(difference, difference, sum);
  }
};

struct Dot {
  static LW_INLINE F32 step(F32 q, F32 x, F32 sum) { return fma(q, x, sum); }
};

template <class Metric, int R>
LW_INLINE void score(const float* query, const float* const* row, std::size_t dim, float* out) {
  F32 partial[R];
  for (int r = 0; r < R; ++r) partial[r] = set(0.0f);
  const std::size_t whole = dim / kLanes * kLanes;
  for (std::size_t d = 0; d < whole; d += kLanes) {
    const F32 q = load(query + d);
    for (int r = 0; r < R; ++r) partial[r] = Metric::step(q, load(row[r] + d), partial[r]);
  }
  if (whole < dim) {
    const F32 q = load_first(query + whole, dim - whole);
    for (int r = 0; r < R; ++r) {
      partial[r] = Metric::step(q, load_first(row[r] + whole, dim - whole), partial[r]);
    }
  }
  for (int r = 0; r < R; ++r) out[r] = sum(partial[r]);
}

template <class Metric>
LW_INLINE void score_all(const float* query, const float* rows, const std::int64_t* ids, std::size_t n, std::size_t dim,
                         float* out) {
  constexpr std::size_t kTogether = 4;
  constexpr std::size_t kAhead = 512;  // floats
  const auto at = [&](std::size_t i) { return rows + (ids == nullptr ? i : static_cast<std::size_t>(ids[i])) * dim; };
  std::size_t i = 0;
  for (; i + kTogether <= n; i += kTogether) {
    const float* row[kTogether] = {at(i), at(i + 1), at(i + 2), at(i + 3)};
    // Named rows lie anywhere: ask for the next ones while these are computed. The hardware follows long ones by
    // itself.
    if (ids != nullptr) {
      for (std::size_t r = i + kTogether; r < i + 2 * kTogether && r < n; ++r) {
        for (std::size_t d = 0; d < dim && d < kAhead; d += kLanes) LW_PREFETCH(at(r) + d);
      }
    }
    score<Metric, kTogether>(query, row, dim, out + i);
  }
  for (; i < n; ++i) {
    const float* row[1] = {at(i)};
    score<Metric, 1>(query, row, dim, out + i);
  }
}

}  // namespace

void l2_rows(const float* query, const float* rows, const std::int64_t* ids, std::size_t n, std::size_t dim,
             float* out) {
  score_all<SquaredL2>(query, rows, ids, n, dim, out);
}

void dot_rows(const float* query, const float* rows, const std::int64_t* ids, std::size_t n, std::size_t dim,
              float* out) {
  score_all<Dot>(query, rows, ids, n, dim, out);
}

}  // namespace lw::LW_ISA
