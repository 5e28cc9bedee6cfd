#include "codes.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "numbers.h"
#include "runs.h"
#include "search.h"

namespace lw {
namespace {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1.0f

// What the float operations of a lower bound may lose, relative to the lengths and to the base: a dozen roundings.
constexpr double kRounding = 32 * kUnit;

float up(double x) { return std::nextafter(static_cast<float>(x), std::numeric_limits<float>::infinity()); }
float down(double x) { return std::nextafter(static_cast<float>(x), -std::numeric_limits<float>::infinity()); }

// A factor of a bound: zero, or at least x > 0 and no denormal, which would cost a hundred cycles in every operation.
float factor_up(double x) { return x == 0.0 ? 0.0f : std::max(up(x), std::numeric_limits<float>::min()); }

// The same as a bfloat16.
std::uint16_t bf16_up(double x) {
  const auto word = std::bit_cast<std::uint32_t>(factor_up(x));
  return static_cast<std::uint16_t>(std::min<std::uint32_t>((word + 0xFFFF) >> 16, 0x7F80));
}

// Codes behind the front, filled up to whole reads.
std::size_t body_length(const CodePlan& plan) {
  const std::size_t n = plan.ends[plan.n_steps - 1] - plan.n_front;
  return (n + plan.body_read() - 1) / plan.body_read() * plan.body_read();
}

std::size_t n_panels(const CodePlan& plan) { return (plan.dim + kLanes - 1) / kLanes; }

// Projects n vectors; out holds n_panels * kLanes floats each, centred n * dim.
void project(const Kernels& kernels, const CodePlan& plan, const float* const* x, std::size_t n, float* centred,
             float* out) {
  const std::size_t stride = n_panels(plan) * kLanes;
  if (plan.panels == nullptr) {
    center_rows(x, n, plan.center, plan.dim, stride, out);
  } else {
    center_rows(x, n, plan.center, plan.dim, plan.dim, centred);
    kernels.project(centred, n, plan.dim, plan.panels, n_panels(plan), out);
  }
}

// Codes the row x, whose projection is y, as position `at`.
void code_row(const Store& store, const CodePlan& plan, const Codes& codes, std::size_t at, const float* x,
              const float* y, std::int8_t* code) {
  double residual2 = 0.0;
  double front2 = 0.0;
  double body2 = 0.0;
  for (std::size_t d = 0; d < plan.dim; ++d) {
    const float scale = plan.scales[d];
    const float nearest = scale > 0.0f ? std::nearbyint(y[d] / scale) : 0.0f;
    const float largest = d < plan.n_front || plan.body_bits == 8 ? 127.0f : 7.0f;
    const float clipped = std::clamp(nearest, -largest, largest);
    const double left = static_cast<double>(y[d]) - static_cast<double>(scale) * static_cast<double>(clipped);
    residual2 += left * left;
    (d < plan.n_front ? front2 : body2) += static_cast<double>(clipped * clipped);
    code[d] = static_cast<std::int8_t>(clipped);
  }
  const double length2 = centered_norm2(x, plan.center, plan.dim);
  const double residual = std::sqrt(residual2) + (plan.distortion + kRounding) * std::sqrt(length2);
  codes.residuals[at] = bf16_up(
      std::max({residual, std::sqrt(front2) / plan.front_length, std::sqrt(body2) / plan.body_length}) * (1 + kUnit));
  double base = length2;
  if (store.metric != Metric::kL2) {
    // <c, c> - <c, x> without cancellation: what double rounds is relative to |c| |x - c|.
    double product = 0.0;
    for (std::size_t d = 0; d < plan.dim; ++d) {
      const double c = static_cast<double>(plan.center[d]);
      product += c * (c - static_cast<double>(x[d]));
    }
    const double center_length = std::sqrt(dot(plan.center, plan.center, plan.dim));
    base = 2 * product - static_cast<double>(plan.dim + 8) * 0x1p-51 * center_length * std::sqrt(length2);
  }
  codes.base[at] = down(base - kRounding * std::abs(base));
  double tail2 = 0.0;
  std::size_t d = plan.dim;
  for (std::size_t step = plan.n_steps; step-- > 0;) {
    for (; d > plan.ends[step]; --d) tail2 += static_cast<double>(y[d - 1]) * static_cast<double>(y[d - 1]);
    if (step < plan.n_tails()) codes.tails[step * codes.tail_stride + at] = bf16_up(std::sqrt(tail2) * (1 + kUnit));
  }
}

// A row that the front has not ruled out.
struct Candidate {
  float lower, estimate;
  std::int64_t position;
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.lower < b.lower || (a.lower == b.lower && a.position < b.position);
  }
};

// Candidates that the bound may still rule out when it is tighter are put off.
struct CodeSearch : Search {
  std::vector<Candidate> deferred;

  static CodeSearch of(const Request& request) { return {Search::of(request), {}}; }
  void restart(const CodeSearch& whole) {
    Search::restart(whole);
    deferred.clear();
  }
};

void merge(const CodeSearch& piece, CodeSearch& whole) {
  merge(static_cast<const Search&>(piece), static_cast<Search&>(whole));
  whole.deferred.insert(whole.deferred.end(), piece.deferred.begin(), piece.deferred.end());
}

// One query, ready to meet codes.
class Query {
 public:
  // z is the projected query.
  Query(const Kernels& kernels, const Store& store, const CodePlan& plan, const Codes& codes, const Request& request,
        const float* query, const float* z)
      : kernels_(kernels),
        store_(store),
        plan_(plan),
        codes_(codes),
        request_(request),
        query_(query),
        code_(plan.n_front + body_length(plan)),
        fine_(code_.size()),
        sums_(plan.n_steps),
        shifts_(plan.n_front_steps),
        front_scales_(plan.n_front_steps),
        tail_weights_(plan.n_steps) {
    const std::size_t dim = plan.dim;
    const double length2 = centered_norm2(query, plan.center, dim);
    // Axes that are not quite orthonormal may stretch it.
    const double length = std::max(std::sqrt(length2), std::sqrt(dot(z, z, dim)) * (1 + 0x1p-40));
    const std::size_t front = std::min(plan.n_front, dim);
    const double lost_front = quantise_front(z, length);
    const Lost lost_body = quantise_body(z);
    const bool exact = this->exact();
    const double spread = exact ? 0.0 : this->spread(z, length);
    const auto likely = [&](double certain, double deviation) {
      return exact ? certain : std::min(certain, request.eps0 * deviation);
    };
    // Twice, because a distance holds twice the product; and the operations that evaluate it round.
    const auto weight = [&](double body) {
      const double front_code = plan.front_length * lost_front;
      const double body_code = plan.body_length * body;
      const double deviation = spread + front_code / std::sqrt(static_cast<double>(front)) +
                               body_code / std::sqrt(static_cast<double>(std::max<std::size_t>(dim - front, 1)));
      return factor_up(2 * likely(length + front_code + body_code, deviation) * (1 + 0x1p-18));
    };
    residual_weight_ = weight(lost_body.coarse);
    fine_residual_weight_ = weight(lost_body.fine);
    front_residual_weight_ = weight(0.0);
    double tail2 = 0.0;
    std::size_t d = dim;
    for (std::size_t step = plan.n_steps; step-- > 0;) {
      for (; d > plan.ends[step]; --d) tail2 += static_cast<double>(z[d - 1]) * static_cast<double>(z[d - 1]);
      double cosine = 1.0;
      if (!exact) {
        cosine = std::clamp(plan.neighbors[2 * step] + request.eps0 * plan.neighbors[2 * step + 1], 0.0, 1.0);
      }
      tail_weights_[step] = factor_up(2 * std::sqrt(tail2) * cosine * (1 + 0x1p-18));
    }
    for (std::size_t step = 0; step < plan.n_steps; ++step) {
      for (std::size_t i = plan.begin(step); i < plan.ends[step]; ++i) sums_[step] += code_[i];
    }
    for (const std::int8_t code : fine_) fine_sum_ += code;

    const double u = static_cast<double>(dim + 8) * kUnit * 1.02;  // of a canonical distance
    const double one = store.metric == Metric::kCosine ? 1.0 : 0.0;
    if (store.metric == Metric::kL2) {
      bound_factor_ = 1 + 2 * u;
      offset_ = -length2;
      slack_ = 8 * kUnit * length2;
    } else {
      // -q.x = <c, c> - <c, x> - <q, c> - <q - c, x - c>, and the base holds 2 (<c, c> - <c, x>).
      double product = dot(query, plan.center, dim);
      const double norm = std::sqrt(dot(query, query, dim));
      bound_factor_ = 2;
      offset_ = 2 * (product - one);
      slack_ = 2 * (u + 4 * kUnit) * norm * store.max_norm + 8 * kUnit * (std::abs(offset_) + 2 * one);
    }
  }

  void scan(const Range* ranges, std::size_t n_ranges, CodeSearch& search) const {
    Scratch scratch;
    for_each_run(ranges, n_ranges, [&](std::size_t at, std::size_t n) {
      std::uint16_t alive[kScreenGroups];
      begin(at, n, 0, alive, search, scratch);
      const float highest = limit(search.best.bound());
      search.stats.dimensions += screen(at, n, highest, alive, scratch.estimates);
      pursue(at, n, alive, scratch.estimates, kLanes, highest, search, scratch);
    });
  }

  // The same for several queries, whose products with a run's codes are made together.
  static void scan_tile(const std::vector<Query>& queries, const Range* ranges, std::size_t n_ranges,
                        CodeSearch* searches) {
    const auto tile = std::make_unique_for_overwrite<Tile>();
    for_each_run(ranges, n_ranges, [&](std::size_t at, std::size_t n) {
      for (std::size_t first = 0; first < queries.size(); first += kScreenQueries) {
        run_tile(queries.data() + first, std::min(kScreenQueries, queries.size() - first), at, n, searches + first,
                 *tile);
      }
    });
  }

  // Looks at the candidates put off: all of them at last, before that only if they have become many.
  template <class Run>
  void catch_up(bool last, const std::vector<Range>&, const Run& run, CodeSearch& search) const {
    if (!last && search.deferred.size() < kMostDeferred) return;
    const float highest = limit(search.best.bound());
    std::vector<Candidate>& deferred = search.deferred;
    // Here and where candidates are gathered nothing branches on a bound: half of the branches would be guessed wrong.
    std::size_t n_left = 0;
    for (const Candidate& candidate : deferred) {
      deferred[n_left] = candidate;
      n_left += highest > candidate.lower ? 1 : 0;
    }
    deferred.resize(n_left);
    if (!last && deferred.size() < kMostDeferred / 2) return;
    const std::size_t n_chunks = (deferred.size() + kDeferredPerChunk - 1) / kDeferredPerChunk;
    std::vector<std::size_t> kept(n_chunks);
    std::vector<std::uint64_t> dimensions(n_chunks);
    run(n_chunks, [&](std::size_t chunk) {
      Scratch scratch;
      const std::size_t first = chunk * kDeferredPerChunk;
      const std::size_t n = std::min(kDeferredPerChunk, deferred.size() - first);
      kept[chunk] = narrow(deferred.data() + first, n, highest, dimensions[chunk], scratch);
    });
    std::size_t m = 0;
    for (std::size_t chunk = 0; chunk < n_chunks; ++chunk) {
      std::copy_n(deferred.data() + chunk * kDeferredPerChunk, kept[chunk], deferred.data() + m);
      m += kept[chunk];
      search.stats.dimensions += dimensions[chunk];
    }
    settle_best(deferred.data(), m, search);
    deferred.clear();
  }

 private:
  static constexpr double kLargestCode = 127;
  static constexpr int kMostFiner = 16;
  // A matrix unit has to give its sums back to be shifted, which costs a batch a tenth of its time.
  static constexpr double kWorthFiner = 0.75;
  static constexpr std::size_t kMostDeferred = 4096;
  static constexpr std::size_t kDeferredPerChunk = 128;

  struct Scratch {
    float estimates[kRun];
    std::int64_t positions[kRun];
    std::int32_t products[kRun];
    Candidate candidates[kRun];
    Candidate deferred[kRun];
  };

  struct Tile {
    CodeQuery queries[kScreenQueries];
    float limits[kScreenQueries];
    std::uint16_t alive[kScreenQueries][kScreenGroups];
    float estimates[kScreenGroups][kScreenQueries][kLanes];
    Scratch scratch;
  };

  static void run_tile(const Query* queries, std::size_t n_queries, std::size_t at, std::size_t n, CodeSearch* searches,
                       Tile& tile) {
    // A group is read for all queries if one of them wants it, which one mostly does: an exact search saves the looks
    // that a query alone would take. Below exact they are part of the answer.
    const std::size_t first_look = queries[0].exact() ? queries[0].plan_.n_front_steps - 1 : 0;
    for (std::size_t q = 0; q < n_queries; ++q) {
      tile.queries[q] = queries[q].code_query();
      queries[q].begin(at, n, first_look, tile.alive[q], searches[q], tile.scratch);
      tile.limits[q] = queries[q].limit(searches[q].best.bound());
    }
    std::uint64_t quads_read[kScreenQueries] = {};
    const std::int8_t* planes[kMostFrontSteps];
    queries[0].kernels_.screen_tile(queries[0].front(at, first_look, planes), n_groups(n), tile.queries, n_queries,
                                    tile.limits, tile.alive[0], tile.estimates[0][0], quads_read);
    for (std::size_t q = 0; q < n_queries; ++q) {
      searches[q].stats.dimensions += 4 * quads_read[q];
      queries[q].pursue(at, n, tile.alive[q], tile.estimates[0][q], kScreenQueries * kLanes, tile.limits[q],
                        searches[q], tile.scratch);
    }
  }

  bool exact() const { return std::isinf(request_.eps0); }

  // The length of what codes do not say of the weighted body of a query.
  struct Lost {
    double coarse, fine;
  };

  std::size_t front_end(std::size_t step) const { return std::min<std::size_t>(plan_.ends[step], plan_.dim); }

  // The largest of some weighted dimensions.
  double largest(const float* z, std::size_t begin, std::size_t end) const {
    double most = 0.0;
    for (std::size_t d = begin; d < end; ++d) most = std::max(most, std::abs(weighted(z, d)));
    return most;
  }
  double weighted(const float* z, std::size_t d) const {
    return 2 * static_cast<double>(z[d]) * static_cast<double>(plan_.scales[d]);
  }

  // Codes the front step by step: where dimensions weigh less, codes are finer by a power of two, which the products of
  // the steps before are shifted by. Returns half the length of what the codes do not say of z, whose length is given.
  double quantise_front(const float* z, double length) {
    const std::size_t n_steps = plan_.n_front_steps;
    double most[kMostFrontSteps + 1] = {};  // of a step's dimensions and those behind them
    for (std::size_t step = n_steps; step-- > 0;) {
      most[step] = std::max(most[step + 1], largest(z, plan_.begin(step), front_end(step)));
    }
    const auto scale = static_cast<float>(most[0] / kLargestCode);
    // Finer than the first step's, in bits: as far as products stay below 2^31, and scales normal numbers, whose
    // halves are exact.
    int finer[kMostFrontSteps] = {};
    for (int limit = kMostFiner; limit > 0; --limit) {
      for (std::size_t step = 1; step < n_steps; ++step) {
        finer[step] = most[step] > 0 ? std::min(std::ilogb(most[0] / most[step]), limit) : finer[step - 1];
      }
      const int finest = finer[n_steps - 1];
      double product = 0.0;
      for (std::size_t step = 0; step < n_steps; ++step) {
        const auto n = static_cast<double>(plan_.ends[step] - plan_.begin(step));
        product += std::ldexp(n * 127 * 128, finest - finer[step]);
      }
      if (product < 0x1p31 && std::ldexp(scale, -finest) >= std::numeric_limits<float>::min()) break;
      std::fill_n(finer, n_steps, 0);
    }
    // A residual's weight, with rounding errors that lie evenly.
    const auto weight = [&](const int* bits) {
      double error2 = 0.0;
      for (std::size_t step = 0; step < n_steps; ++step) {
        const double unit = std::ldexp(static_cast<double>(scale), -bits[step]);
        error2 += static_cast<double>(plan_.ends[step] - plan_.begin(step)) * unit * unit / 12;
      }
      return length + plan_.front_length * std::sqrt(error2) / 2;
    };
    const int same[kMostFrontSteps] = {};
    if (weight(finer) > kWorthFiner * weight(same)) std::fill_n(finer, n_steps, 0);
    double lost2 = 0.0;
    for (std::size_t step = 0; step < n_steps; ++step) {
      shifts_[step] = step == 0 ? 0 : finer[step] - finer[step - 1];
      front_scales_[step] = std::ldexp(scale, -finer[step]);
      for (std::size_t d = plan_.begin(step); d < front_end(step); ++d) {
        const double code = nearest_code(weighted(z, d), front_scales_[step], kLargestCode);
        const double left = weighted(z, d) - static_cast<double>(front_scales_[step]) * code;
        code_[d] = static_cast<std::int8_t>(code);
        lost2 += left * left;
      }
    }
    return std::sqrt(lost2) / 2;
  }

  // Codes the body's dimensions, so that twice the product is scale * codes; and what that leaves once more, 254 times
  // finer.
  Lost quantise_body(const float* z) {
    const std::size_t begin = std::min(plan_.n_front, plan_.dim);
    body_scale_ = static_cast<float>(largest(z, begin, plan_.dim) / kLargestCode);
    fine_scale_ = body_scale_ / 254;
    double coarse2 = 0.0;
    double fine2 = 0.0;
    for (std::size_t d = begin; d < plan_.dim; ++d) {
      const double code = nearest_code(weighted(z, d), body_scale_, kLargestCode);
      double left = weighted(z, d) - static_cast<double>(body_scale_) * code;
      code_[d] = static_cast<std::int8_t>(code);
      coarse2 += left * left;
      const double fine = nearest_code(left, fine_scale_, kLargestCode);
      left -= static_cast<double>(fine_scale_) * fine;
      fine_[d] = static_cast<std::int8_t>(fine);
      fine2 += left * left;
    }
    return {std::sqrt(coarse2) / 2, std::sqrt(fine2) / 2};
  }

  // Rounding errors are independent of each other and of the query: their product has this standard deviation, in
  // residuals of a typical row.
  double spread(const float* z, double length) const {
    if (!(plan_.residual > 0)) return length;
    const double spread2 = sum_of(plan_.dim, [&](std::size_t d) {
      const double term = static_cast<double>(z[d]) * static_cast<double>(plan_.scales[d]);
      return term * term;
    });
    return std::sqrt(spread2 / 12) / plan_.residual;
  }

  // Lower bounds below this may still enter.
  float limit(float bound) const {
    const double b = static_cast<double>(bound);
    const double exact = bound_factor_ * b + offset_;
    return up(exact + slack_ + 8 * kUnit * (std::abs(b) + std::abs(exact)) + static_cast<double>(plan_.dim) * 0x1p-140);
  }

  // The front from a position on; `planes` is where it keeps the places.
  CodeFront front(std::size_t at, std::size_t first_look, const std::int8_t* (&planes)[kMostFrontSteps]) const {
    for (std::size_t step = 0; step < plan_.n_front_steps; ++step) {
      planes[step] = codes_.fronts[step] + at * (plan_.ends[step] - plan_.begin(step));
    }
    return {planes,
            codes_.base + at,
            codes_.residuals + at,
            codes_.tails + at,
            codes_.tail_stride,
            front_ends_.data(),
            plan_.n_front_steps,
            first_look};
  }

  CodeQuery code_query() const {
    return {code_.data(),         sums_.data(),         shifts_.data(),
            front_scales_.data(), tail_weights_.data(), front_residual_weight_};
  }

  // Returns the dimensions read behind the first step.
  std::uint64_t screen(std::size_t at, std::size_t n, float highest, std::uint16_t* alive, float* estimates) const {
    std::uint64_t quads_read = 0;
    const std::int8_t* planes[kMostFrontSteps];
    kernels_.screen_codes(front(at, 0, planes), n_groups(n), code_query(), highest, alive, estimates, &quads_read);
    return 4 * quads_read;
  }

  // Finds the run's candidates that the request allows and that are not settled yet. Without a bound nothing could be
  // dropped: the rows with the best estimates are settled to have one.
  void begin(std::size_t at, std::size_t n, std::size_t first_look, std::uint16_t* alive, Search& search,
             Scratch& scratch) const {
    const std::size_t n_candidates = allow(store_, request_, at, n, alive);
    search.stats.candidates += n_candidates;
    search.stats.dimensions += n_candidates * plan_.ends[first_look];
    if (search.best.bound() < std::numeric_limits<float>::infinity()) return;
    std::uint16_t screened[kScreenGroups];
    std::copy_n(alive, n_groups(n), screened);
    screen(at, n, std::numeric_limits<float>::infinity(), screened, scratch.estimates);
    Candidate* const candidates = scratch.candidates;
    std::size_t m = 0;
    for_each_alive(screened, n_groups(n), [&](std::uint32_t offset) {
      candidates[m++] = {scratch.estimates[offset], 0.0f, static_cast<std::int64_t>(offset)};
    });
    const std::size_t n_best = std::min(m, 2 * std::max<std::size_t>(request_.k, 8));
    std::partial_sort(candidates, candidates + n_best, candidates + m);
    std::int64_t rows[kRun];
    for (std::size_t i = 0; i < n_best; ++i) {
      const auto offset = static_cast<std::size_t>(candidates[i].position);
      rows[i] = store_.row(at + offset);
      alive[offset / kLanes] &= static_cast<std::uint16_t>(~(1u << offset % kLanes));
    }
    settle(kernels_, store_, query_, rows, n_best, search);
  }

  // Follows up what the front leaves of a run: those that are in by their estimate at once, because they tighten the
  // bound; the others may be out by the time that catch_up looks at them. Estimates of a group lie `stride` apart from
  // those of the next.
  void pursue(std::size_t at, std::size_t n, const std::uint16_t* alive, const float* estimates, std::size_t stride,
              float highest, CodeSearch& search, Scratch& scratch) const {
    const std::size_t step = plan_.n_front_steps - 1;
    const std::uint16_t* const residuals = codes_.residuals + at;
    const std::uint16_t* const tails = codes_.tails + step * codes_.tail_stride + at;
    Candidate* const near = scratch.candidates;
    Candidate* const far = scratch.deferred;
    std::size_t m = 0;
    std::size_t n_far = 0;
    for_each_alive(alive, n_groups(n), [&](std::uint32_t offset) {
      const float estimate = estimates[offset / kLanes * stride + offset % kLanes];
      const float lower = estimate - front_residual_weight_ * from_bf16(residuals[offset]) -
                          tail_weights_[step] * from_bf16(tails[offset]);
      near[m] = far[n_far] = {lower, estimate, static_cast<std::int64_t>(at + offset)};
      const bool in = highest > estimate;
      m += in ? 1 : 0;
      n_far += in ? 0 : 1;
    });
    search.deferred.insert(search.deferred.end(), far, far + n_far);
    m = narrow(near, m, highest, search.stats.dimensions, scratch);
    settle_best(near, m, search);
  }

  // Products of the query's codes with those of m rows, dimensions [begin, end) of the body.
  void body_products(const std::int8_t* codes, std::int32_t sum, std::size_t begin, std::size_t end, std::size_t m,
                     Scratch& scratch) const {
    const std::size_t read = plan_.body_read();
    const std::size_t n = (end - begin + read - 1) / read * read;
    const auto dot = kernels_.dot_of(plan_.body_bits);
    dot(codes + begin, sum, codes_.body + (begin - plan_.n_front) * 64 / read, plan_.body_stride(), scratch.positions,
        m, n, scratch.products);
  }

  // The body's steps: keeps those of m candidates, at most kRun, whose lower bound stays below the limit. Returns how
  // many.
  std::size_t narrow(Candidate* candidates, std::size_t m, float highest, std::uint64_t& dimensions,
                     Scratch& scratch) const {
    // Takes scale * products off the estimates, and keeps whom the new lower bound does.
    const auto keep = [&](float scale, float residual_weight, std::size_t step) {
      const bool tailless = step >= plan_.n_tails();
      const std::uint16_t* const tails = tailless ? codes_.residuals : codes_.tails + step * codes_.tail_stride;
      const float tail_weight = tailless ? 0.0f : tail_weights_[step];
      std::size_t kept = 0;
      for (std::size_t i = 0; i < m; ++i) {
        const std::int64_t position = candidates[i].position;
        const float estimate = candidates[i].estimate - scale * static_cast<float>(scratch.products[i]);
        const float lower = estimate - residual_weight * from_bf16(codes_.residuals[position]) -
                            tail_weight * from_bf16(tails[position]);
        candidates[kept] = {lower, estimate, position};
        scratch.positions[kept] = position;
        kept += highest > lower ? 1 : 0;
      }
      m = kept;
    };
    for (std::size_t i = 0; i < m; ++i) scratch.positions[i] = candidates[i].position;
    for (std::size_t step = plan_.n_front_steps; step < plan_.n_steps && m > 0; ++step) {
      const std::size_t begin = plan_.ends[step - 1];
      body_products(code_.data(), sums_[step], begin, plan_.ends[step], m, scratch);
      dimensions += m * (plan_.ends[step] - begin);
      keep(body_scale_, residual_weight_, step);
    }
    const std::size_t last = plan_.n_steps - 1;
    if (m > 0 && last >= plan_.n_front_steps) {
      body_products(fine_.data(), fine_sum_, plan_.n_front, plan_.ends[last], m, scratch);
      keep(fine_scale_, fine_residual_weight_, last);
    }
    return m;
  }

  // Scores candidates' rows, most promising first.
  void settle_best(Candidate* candidates, std::size_t m, Search& search) const {
    std::sort(candidates, candidates + m);
    constexpr std::size_t kTogether = 8;
    std::int64_t rows[kTogether];
    for (std::size_t first = 0; first < m;) {
      std::size_t n = 0;
      // Sorted by their lower bound: behind one that is out all are.
      const float now = limit(search.best.bound());
      while (n < kTogether && first < m && now > candidates[first].lower) {
        rows[n++] = store_.row(static_cast<std::size_t>(candidates[first++].position));
      }
      settle(kernels_, store_, query_, rows, n, search);
      if (n < kTogether) return;
    }
  }

  const Kernels& kernels_;
  const Store& store_;
  const CodePlan& plan_;
  const Codes& codes_;
  const Request& request_;
  const float* query_;
  std::vector<std::int8_t> code_;
  std::vector<std::int8_t> fine_;
  std::vector<std::int32_t> sums_;
  std::vector<std::int32_t> shifts_;
  std::vector<float> front_scales_;
  std::vector<float> tail_weights_;
  std::vector<std::uint32_t> front_ends_ = quads(plan_);
  float body_scale_ = 0.0f;
  float fine_scale_ = 0.0f;
  std::int32_t fine_sum_ = 0;
  float front_residual_weight_ = 0.0f;
  float residual_weight_ = 0.0f;
  float fine_residual_weight_ = 0.0f;
  double bound_factor_ = 1.0;
  double offset_ = 0.0;
  double slack_ = 0.0;

  static std::vector<std::uint32_t> quads(const CodePlan& plan) {
    std::vector<std::uint32_t> ends(plan.ends, plan.ends + plan.n_front_steps);
    for (std::uint32_t& end : ends) end /= 4;
    return ends;
  }
};

// Queries too few to share their projection, which threads share then.
constexpr std::size_t kFew = 4;
constexpr std::size_t kPanelsPerChunk = 8;

struct Plan {
  const Kernels& kernels;
  const Store& store;
  const CodePlan& plan;
  const Codes& codes;
  const Request& request;

  template <class Run>
  std::vector<Query> prepare(std::size_t first, std::size_t n, const Run& run) const {
    const std::size_t stride = n_panels(plan) * kLanes;
    const std::vector<const float*> from = rows_of(request.queries + first * store.dim, n, store.dim);
    std::vector<float> centred(plan.panels == nullptr ? 0 : n * plan.dim);
    std::vector<float> z(n * stride);
    if (n >= kFew || plan.panels == nullptr) {
      project(kernels, plan, from.data(), n, centred.data(), z.data());
    } else {
      // The axes are more than a cache holds, and a query alone waits for all of them.
      center_rows(from.data(), n, plan.center, plan.dim, plan.dim, centred.data());
      const std::size_t n_chunks = (n_panels(plan) + kPanelsPerChunk - 1) / kPanelsPerChunk;
      run(n * n_chunks, [&](std::size_t i) {
        const std::size_t panel = i % n_chunks * kPanelsPerChunk;
        kernels.project(centred.data() + i / n_chunks * plan.dim, 1, plan.dim, plan.panels + panel * kLanes * plan.dim,
                        std::min(kPanelsPerChunk, n_panels(plan) - panel),
                        z.data() + i / n_chunks * stride + panel * kLanes);
      });
    }
    std::vector<Query> queries;
    queries.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
      queries.emplace_back(kernels, store, plan, codes, request, from[i], z.data() + i * stride);
    }
    return queries;
  }

  void scan_tile(const std::vector<Query>& queries, const Range* ranges, std::size_t n_ranges,
                 CodeSearch* searches) const {
    Query::scan_tile(queries, ranges, n_ranges, searches);
  }
};

}  // namespace

bool fill_codes(const Kernels& kernels, const Store& store, const CodePlan& plan, const Codes& codes, std::size_t first,
                std::size_t last, std::size_t n_threads, const Interrupt& interrupt) {
  const std::size_t stride = n_panels(plan) * kLanes;
  const std::size_t body_stride = plan.body_stride();
  const std::size_t n_pieces = (last - first + kRowsTogether - 1) / kRowsTogether;
  return parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    const std::size_t begin = first + piece * kRowsTogether;
    const std::size_t n = std::min(kRowsTogether, last - begin);
    const Gathered gathered(store, begin, n);
    const float* const* const rows = gathered.rows;
    std::vector<float> centred(plan.panels == nullptr ? 0 : n * plan.dim);
    std::vector<float> y(n * stride);
    project(kernels, plan, rows, n, centred.data(), y.data());
    std::vector<std::int8_t> code(plan.n_front + body_length(plan));
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t at = begin + i;
      std::fill(code.begin(), code.end(), std::int8_t{0});
      if (rows[i] == nullptr) {
        codes.base[at] = std::numeric_limits<float>::infinity();
        codes.residuals[at] = 0;
        for (std::size_t step = 0; step < plan.n_tails(); ++step) codes.tails[step * codes.tail_stride + at] = 0;
      } else {
        code_row(store, plan, codes, at, rows[i], y.data() + i * stride, code.data());
      }
      for (std::size_t step = 0; step < plan.n_front_steps; ++step) {
        const std::size_t n_quads = (plan.ends[step] - plan.begin(step)) / 4;
        std::int8_t* const place = codes.fronts[step] + at / kLanes * kLanes * 4 * n_quads + at % kLanes * 4;
        const std::int8_t* const from = code.data() + plan.begin(step);
        for (std::size_t j = 0; j < n_quads; ++j) std::memcpy(place + j * kLanes * 4, from + 4 * j, 4);
      }
      const std::int8_t* const rest = code.data() + plan.n_front;
      std::int8_t* const row = codes.body + at * body_stride;
      if (plan.body_bits == 8) {
        if (body_stride > 0) std::memcpy(row, rest, body_stride);
        continue;
      }
      for (std::size_t b = 0; b < body_stride; ++b) {
        const std::size_t low = b / 64 * 128 + b % 64;
        row[b] = static_cast<std::int8_t>((rest[low] + 8) | (rest[low + 64] + 8) << 4);
      }
    }
  });
}

bool project_all(const Kernels& kernels, const CodePlan& plan, const float* x, std::size_t n, float* y,
                 std::size_t n_threads, const Interrupt& interrupt) {
  const std::size_t stride = n_panels(plan) * kLanes;
  return parallel_for((n + kRowsTogether - 1) / kRowsTogether, n_threads, interrupt,
                      [&](std::size_t piece, std::size_t) {
                        const std::size_t begin = piece * kRowsTogether;
                        const std::size_t m = std::min(kRowsTogether, n - begin);
                        const std::vector<const float*> rows = rows_of(x + begin * plan.dim, m, plan.dim);
                        std::vector<float> centred(plan.panels == nullptr ? 0 : m * plan.dim);
                        std::vector<float> out(m * stride);
                        project(kernels, plan, rows.data(), m, centred.data(), out.data());
                        for (std::size_t i = 0; i < m; ++i)
                          std::copy_n(out.data() + i * stride, plan.dim, y + (begin + i) * plan.dim);
                      });
}

bool scan_codes(const Kernels& kernels, const Store& store, const CodePlan& plan, const Codes& codes,
                const Request& request, const Output& output, std::size_t n_threads, const Interrupt& interrupt) {
  return search_lists<CodeSearch>(store, request, Plan{kernels, store, plan, codes, request}, output, n_threads,
                                  interrupt);
}

}  // namespace lw
