#include "pq.h"

#include <cmath>

#include "numbers.h"
#include "runs.h"
#include "search.h"
#include "shortlist.h"

namespace lw {
namespace {

// Points that are met together: their sub-vectors stay in the first-level cache while all words pass them.
constexpr std::size_t kPoints = 64;

// Dimensions [begin, begin + length) of n rows, `stride` floats apart, less `shift`, in groups of kLanes,
// dimension-major; zeros behind the last.
void pack(const float* rows, std::size_t n, std::size_t stride, std::size_t begin, std::size_t length,
          const float* shift, float* out) {
  for (std::size_t g = 0; g < n_groups(n); ++g) {
    for (std::size_t m = 0; m < kLanes; ++m) {
      const std::size_t i = g * kLanes + m;
      for (std::size_t d = 0; d < length; ++d) {
        out[(g * length + d) * kLanes + m] = i < n ? rows[i * stride + begin + d] - shift[d] : 0.0f;
      }
    }
  }
}

// The words of one sub-space less their shift, and what a score begins with.
void prepare(const float* words, std::size_t n_words, std::size_t length, const float* shift, float* shifted,
             float* bias) {
  for (std::size_t j = 0; j < n_words; ++j) {
    double norm2 = 0.0;
    for (std::size_t d = 0; d < length; ++d) {
      const float w = words[j * length + d] - shift[d];
      shifted[j * length + d] = w;
      norm2 += static_cast<double>(w) * static_cast<double>(w);
    }
    bias[j] = static_cast<float>(-0.5 * norm2);
  }
}

// Words ready to be met, each sub-space about the mean of its words: a common offset would cost digits.
class Coder {
 public:
  Coder(const Kernels& kernels, const Words& words)
      : kernels_(kernels),
        words_(words),
        shift_(words.dim),
        shifted_(words.dim * words.n_words()),
        bias_(words.n_subspaces * words.n_words()) {
    const std::size_t length = words.length();
    for (std::size_t s = 0; s < words.n_subspaces; ++s) {
      const float* const own = words.words + s * words.n_words() * length;
      mean(own, words.n_words(), length, shift_.data() + s * length);
      prepare(own, words.n_words(), length, shift_.data() + s * length, shifted_.data() + s * words.n_words() * length,
              bias_.data() + s * words.n_words());
    }
  }

  // Codes of n vectors, at most kPoints, on the axes of the words and `stride` floats apart.
  void encode(const float* y, std::size_t n, std::size_t stride, std::uint8_t* codes) const {
    const std::size_t length = words_.length();
    std::vector<float> packed(kPoints * length);
    std::int32_t labels[kPoints];
    float scores[kPoints];
    for (std::size_t s = 0; s < words_.n_subspaces; ++s) {
      pack(y, n, stride, s * length, length, shift_.data() + s * length, packed.data());
      kernels_.nearest_words(packed.data(), n_groups(n), length, shifted_.data() + s * words_.n_words() * length,
                             bias_.data() + s * words_.n_words(), words_.n_words(), labels, scores);
      for (std::size_t i = 0; i < n; ++i) codes[i * words_.n_subspaces + s] = static_cast<std::uint8_t>(labels[i]);
    }
  }

 private:
  const Kernels& kernels_;
  const Words& words_;
  std::vector<float> shift_, shifted_, bias_;
};

// Floats of a vector on the axes of the words.
std::size_t axes_stride(const Words& words) {
  return words.panels == nullptr ? words.dim : (words.dim + kLanes - 1) / kLanes * kLanes;
}

// n vectors on the axes of the words, axes_stride apart: themselves, or in `turned`.
const float* on_axes(const Kernels& kernels, const Words& words, const float* x, std::size_t n,
                     std::vector<float>& turned) {
  if (words.panels == nullptr) return x;
  turned.resize(n * axes_stride(words));
  kernels.project(x, n, words.dim, words.panels, axes_stride(words) / kLanes, turned.data());
  return turned.data();
}

// Lloyd's algorithm in one sub-space.
class Trainer {
 public:
  Trainer(const Kernels& kernels, const float* x, std::size_t n, std::size_t stride, std::size_t begin,
          std::size_t length, std::size_t n_words)
      : kernels_(kernels),
        n_(n),
        length_(length),
        n_words_(n_words),
        shift_(length),
        shifted_(n_words * length),
        bias_(n_words),
        packed_(n_groups(n) * kLanes * length),
        labels_(n_groups(n) * kLanes, -1),
        scores_(labels_.size()),
        sums_(n_words * length),
        counts_(n_words) {
    std::vector<double> sum(length);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t d = 0; d < length; ++d) sum[d] += static_cast<double>(x[i * stride + begin + d]);
    }
    for (std::size_t d = 0; d < length; ++d) shift_[d] = static_cast<float>(sum[d] / static_cast<double>(n));
    pack(x, n, stride, begin, length, shift_.data(), packed_.data());
  }

  // One iteration. Returns false if no label has changed, and the words would not either.
  bool improve(float* words) {
    prepare(words, n_words_, length_, shift_.data(), shifted_.data(), bias_.data());
    const std::vector<std::int32_t> before = labels_;
    kernels_.nearest_words(packed_.data(), n_groups(n_), length_, shifted_.data(), bias_.data(), n_words_,
                           labels_.data(), scores_.data());
    if (labels_ == before) return false;
    std::fill(counts_.begin(), counts_.end(), std::size_t{0});
    for (std::size_t i = 0; i < n_; ++i) ++counts_[static_cast<std::size_t>(labels_[i])];
    refill();
    std::fill(sums_.begin(), sums_.end(), 0.0);
    for (std::size_t i = 0; i < n_; ++i) {
      double* const sum = sums_.data() + static_cast<std::size_t>(labels_[i]) * length_;
      const float* const x = point(i);
      for (std::size_t d = 0; d < length_; ++d) sum[d] += static_cast<double>(x[d * kLanes]);
    }
    for (std::size_t j = 0; j < n_words_; ++j) {
      if (counts_[j] == 0) continue;
      for (std::size_t d = 0; d < length_; ++d) {
        const double mean = sums_[j * length_ + d] / static_cast<double>(counts_[j]);
        words[j * length_ + d] = static_cast<float>(mean + static_cast<double>(shift_[d]));
      }
    }
    return true;
  }

 private:
  const float* point(std::size_t i) const { return packed_.data() + i / kLanes * length_ * kLanes + i % kLanes; }

  // An empty word takes over the point that is farthest from its own, unless that is its only point.
  void refill() {
    std::vector<std::size_t> empty;
    for (std::size_t j = 0; j < n_words_; ++j) {
      if (counts_[j] == 0) empty.push_back(j);
    }
    if (empty.empty()) return;
    std::vector<Neighbor> farthest(n_);
    for (std::size_t i = 0; i < n_; ++i) {
      double norm2 = 0.0;
      for (std::size_t d = 0; d < length_; ++d) {
        norm2 += static_cast<double>(point(i)[d * kLanes]) * static_cast<double>(point(i)[d * kLanes]);
      }
      farthest[i] = {static_cast<float>(2 * static_cast<double>(scores_[i]) - norm2), static_cast<std::int64_t>(i)};
    }
    std::sort(farthest.begin(), farthest.end());
    std::size_t next = 0;
    for (const Neighbor& candidate : farthest) {
      // What lies on its word has nothing to gain from another one.
      if (next == empty.size() || !(candidate.distance < 0)) return;
      std::int32_t& label = labels_[static_cast<std::size_t>(candidate.id)];
      if (counts_[static_cast<std::size_t>(label)] == 1) continue;
      --counts_[static_cast<std::size_t>(label)];
      counts_[empty[next]] = 1;
      label = static_cast<std::int32_t>(empty[next++]);
    }
  }

  const Kernels& kernels_;
  std::size_t n_, length_, n_words_;
  std::vector<float> shift_, shifted_, bias_, packed_;
  std::vector<std::int32_t> labels_;
  std::vector<float> scores_;
  std::vector<double> sums_;
  std::vector<std::size_t> counts_;
};

// The list that a position belongs to; empty ones begin where the next does.
std::size_t list_at(const Store& store, std::size_t position) {
  const std::int64_t* const begin = store.list_begin;
  const auto at = std::upper_bound(begin, begin + store.n_lists, static_cast<std::int64_t>(position));
  return static_cast<std::size_t>(at - begin) - 1;
}

std::size_t centroid_of(const ProductPlan& plan, std::size_t list) { return plan.n_centroids == 1 ? 0 : list; }

// Every centroid on the axes of the words, less the centre.
std::vector<float> seen_from_center(const Kernels& kernels, const ProductPlan& plan) {
  const Words& words = plan.words;
  const std::size_t stride = axes_stride(words);
  std::vector<float> seen(plan.n_centroids * stride);
  std::vector<float> x(words.dim);
  std::vector<float> turned;
  for (std::size_t c = 0; c < plan.n_centroids; ++c) {
    const float* const centroid = plan.centroids + c * words.dim;
    center_rows(&centroid, 1, plan.center, words.dim, words.dim, x.data());
    std::copy_n(on_axes(kernels, words, x.data(), 1, turned), words.dim, seen.data() + c * stride);
  }
  return seen;
}

// One query, ready to meet codes.
class Query {
 public:
  // `panels` are the words of each sub-space as Kernels::project takes them.
  Query(const Kernels& kernels, const Store& store, const ProductPlan& plan, const ProductCodes& codes,
        const Request& request, const float* query, const std::vector<float>& panels)
      : kernels_(kernels), store_(store), plan_(plan), codes_(codes), request_(request), query_(query) {
    const Words& words = plan.words;
    const std::size_t k = words.n_words();
    std::vector<float> z(words.dim);
    std::vector<float> turned;
    center_rows(&query, 1, plan.center, words.dim, words.dim, z.data());
    const float* const on = on_axes(kernels, words, z.data(), 1, turned);
    products_.resize(words.n_subspaces * k);
    for (std::size_t s = 0; s < words.n_subspaces; ++s) {
      kernels.project(on + s * words.length(), 1, words.length(), panels.data() + s * k * words.length(), k / kLanes,
                      products_.data() + s * k);
    }
    if (words.n_bits == 4) quantise();
  }

  void scan(const Range* ranges, std::size_t n_ranges, Shortlist& list) const {
    for (std::size_t r = 0; r < n_ranges; ++r) {
      const float offset = offset_of(list_at(store_, static_cast<std::size_t>(ranges[r].begin)));
      for_each_run(ranges + r, 1, [&](std::size_t at, std::size_t n) { run(at, n, offset, list); });
    }
  }

 private:
  // Sixteen whole numbers a sub-space, of one step: the least stands for the sub-space's least product.
  void quantise() {
    const Words& words = plan_.words;
    float least[kLanes];
    float range = 0.0f;
    double lowest = 0.0;
    const auto product = [&](std::size_t s, std::size_t j) { return products_[s * kLanes + j]; };
    std::vector<float> floor(words.n_subspaces);
    for (std::size_t s = 0; s < words.n_subspaces; ++s) {
      std::copy_n(products_.data() + s * kLanes, kLanes, least);
      const float low = *std::min_element(least, least + kLanes);
      const float high = *std::max_element(least, least + kLanes);
      floor[s] = low;
      range = std::max(range, high - low);
      lowest += static_cast<double>(low);
    }
    const float step = range / static_cast<float>(kBitEntry);
    const float inverse = range > 0.0f ? static_cast<float>(kBitEntry) / range : 0.0f;
    tables_.resize(2 * plan_.n_bytes() * kLanes);
    for (std::size_t s = 0; s < words.n_subspaces; ++s) {
      const std::size_t byte = s / 2;
      std::uint8_t* const table = tables_.data() + ((byte / 4 * 2 + s % 2) * 4 + byte % 4) * kLanes;
      for (std::size_t j = 0; j < kLanes; ++j) {
        table[j] = static_cast<std::uint8_t>(static_cast<std::int32_t>((product(s, j) - floor[s]) * inverse + 0.5f));
      }
    }
    // A kernel evaluates step_ * (2 * entries - total_).
    step_ = step / 2;
    const double total = step_ > 0.0f ? -lowest / static_cast<double>(step_) : 0.0;
    total_ = static_cast<std::int32_t>(std::clamp(std::nearbyint(total), -1e9, 1e9));
  }

  // What the estimates of a list have in common.
  float offset_of(std::size_t list) const {
    const float* const centroid = plan_.centroids + centroid_of(plan_, list) * store_.dim;
    float distance;
    if (store_.metric == Metric::kL2) {
      kernels_.l2_rows(query_, centroid, nullptr, 1, store_.dim, &distance);
      return 0.5f * distance;
    }
    kernels_.dot_rows(query_, centroid, nullptr, 1, store_.dim, &distance);
    return -distance;
  }

  void run(std::size_t at, std::size_t n, float offset, Shortlist& list) const {
    std::uint16_t alive[kScreenGroups];
    float estimates[kRun];
    const std::size_t n_candidates = allow(store_, request_, at, n, alive);
    list.stats.candidates += n_candidates;
    list.stats.dimensions += n_candidates * plan_.words.dim;
    const std::size_t n_bytes = plan_.n_bytes();
    const BitRows rows{codes_.codes + at * n_bytes, codes_.base + at, codes_.factors + at, n_bytes};
    // Equal estimates go by position, and an earlier one may come later: with what the sum rounds, none is lost.
    const float slack = 0x1p-21f * (std::abs(list.bound) + std::abs(offset));
    const float limit = std::nextafter(list.bound - offset + slack, std::numeric_limits<float>::infinity());
    if (plan_.words.n_bits == 4) {
      kernels_.screen_bits(rows, n_groups(n), {tables_.data(), total_, step_}, limit, alive, estimates);
    } else {
      kernels_.screen_words(rows, n_groups(n), products_.data(), limit, alive, estimates);
    }
    for_each_alive(alive, n_groups(n),
                   [&](std::uint32_t i) { list.add({estimates[i] + offset, static_cast<std::int64_t>(at + i)}); });
  }

  const Kernels& kernels_;
  const Store& store_;
  const ProductPlan& plan_;
  const ProductCodes& codes_;
  const Request& request_;
  const float* query_;
  std::vector<float> products_;  // of the query with each word, less the centre
  std::vector<std::uint8_t> tables_;
  std::int32_t total_ = 0;
  float step_ = 0.0f;
};

struct Plan {
  const Kernels& kernels;
  const Store& store;
  const ProductPlan& plan;
  const ProductCodes& codes;
  const Request& request;
  std::vector<float> panels;

  Plan(const Kernels& kernels_, const Store& store_, const ProductPlan& plan_, const ProductCodes& codes_,
       const Request& request_)
      : kernels(kernels_),
        store(store_),
        plan(plan_),
        codes(codes_),
        request(request_),
        panels(plan_.words.n_words() * plan_.words.dim) {
    const std::size_t length = plan.words.length();
    for (std::size_t w = 0; w < plan.words.n_subspaces * plan.words.n_words(); ++w) {
      for (std::size_t d = 0; d < length; ++d) {
        panels[(w / kLanes * length + d) * kLanes + w % kLanes] = plan.words.words[w * length + d];
      }
    }
  }

  template <class Run>
  std::vector<Query> prepare(std::size_t first, std::size_t n, const Run&) const {
    std::vector<Query> queries;
    queries.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
      queries.emplace_back(kernels, store, plan, codes, request, request.queries + (first + i) * store.dim, panels);
    }
    return queries;
  }

  void scan_tile(const std::vector<Query>& queries, const Range* ranges, std::size_t n_ranges, Shortlist* lists) const {
    for (std::size_t q = 0; q < queries.size(); ++q) queries[q].scan(ranges, n_ranges, lists[q]);
  }
};

// Where the first pass hands its candidates over, to be scored on their rows.
struct Funnel {
  const Kernels& kernels;
  const Store& store;
  const ProductCodes& codes;
  const Request& request;
  const Output& output;

  void take(std::size_t q, std::size_t k, Shortlist& list) const {
    const float* const query = request.queries + q * store.dim;
    const double length = std::sqrt(dot(query, query, store.dim));
    const double even = 1 / std::sqrt(static_cast<double>(store.dim));
    Search search = list.settled(kernels, store, request, query, [&](const Neighbor& candidate, const Search& found) {
      if (request.eps0 == std::numeric_limits<double>::infinity()) return false;
      const auto bound = static_cast<double>(found.best.bound());
      const auto estimate = static_cast<double>(candidate.distance);
      // A product is off by what the code has besides its row, times the way from the query to the row, of which the
      // bound says how long it may be.
      const double error = request.eps0 * even * static_cast<double>(from_bf16(codes.errors[candidate.id]));
      switch (store.metric) {
        case Metric::kL2:
          return 2 * (estimate - error * std::sqrt(bound)) > bound;
        case Metric::kCosine:
          return 1 + estimate - error * std::sqrt(2 * std::max(bound, 0.0)) > bound;
        default:
          return estimate - error * (length + store.max_norm) > bound;
      }
    });
    output.take(q, k, search);
  }
};

}  // namespace

bool train_words(const Kernels& kernels, const float* x, std::size_t n, const Words& shape, float* words,
                 std::size_t n_iterations, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const std::size_t length = shape.length();
  const std::size_t n_words = shape.n_words();
  return parallel_for(shape.n_subspaces, n_threads, interrupt, [&](std::size_t s, std::size_t) {
    Trainer trainer(kernels, x, n, shape.dim, s * length, length, n_words);
    for (std::size_t i = 0; i < n_iterations; ++i) {
      if (!trainer.improve(words + s * n_words * length)) return;
    }
  });
}

bool encode(const Kernels& kernels, const Words& words, const float* x, std::size_t n, std::uint8_t* codes,
            std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const Coder coder(kernels, words);
  return parallel_for((n + kPoints - 1) / kPoints, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    const std::size_t first = piece * kPoints;
    const std::size_t count = std::min(kPoints, n - first);
    std::vector<float> turned;
    coder.encode(on_axes(kernels, words, x + first * words.dim, count, turned), count, axes_stride(words),
                 codes + first * words.n_subspaces);
  });
}

bool fill_products(const Kernels& kernels, const Store& store, const ProductPlan& plan, const ProductCodes& codes,
                   std::size_t first, std::size_t last, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const Words& words = plan.words;
  const std::size_t dim = words.dim;
  const std::size_t length = words.length();
  const std::size_t stride = axes_stride(words);
  const std::size_t n_bytes = plan.n_bytes();
  const Coder coder(kernels, words);
  const std::vector<float> centroids = seen_from_center(kernels, plan);
  const std::size_t n_pieces = (last - first + kRowsTogether - 1) / kRowsTogether;
  return parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    const std::size_t begin = first + piece * kRowsTogether;
    const std::size_t n = std::min(kRowsTogether, last - begin);
    const Gathered gathered(store, begin, n);
    std::vector<float> residuals(n * dim);
    std::vector<std::size_t> centroid(n);
    for (std::size_t i = 0; i < n; ++i) {
      centroid[i] = centroid_of(plan, list_at(store, begin + i));
      center_rows(gathered.rows + i, 1, plan.centroids + centroid[i] * dim, dim, dim, residuals.data() + i * dim);
    }
    std::vector<float> turned;
    const float* const y = on_axes(kernels, words, residuals.data(), n, turned);
    std::vector<std::uint8_t> coded(n * words.n_subspaces);
    coder.encode(y, n, stride, coded.data());
    std::vector<float> decoded(dim);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t at = begin + i;
      std::uint8_t* const group = codes.codes + at / kLanes * kLanes * n_bytes + at % kLanes;
      const std::uint8_t* const code = coded.data() + i * words.n_subspaces;
      for (std::size_t j = 0; j < n_bytes; ++j) {
        unsigned byte = 0;
        if (words.n_bits == 8) {
          byte = code[j];
        } else {
          if (2 * j < words.n_subspaces) byte = code[2 * j];
          if (2 * j + 1 < words.n_subspaces) byte |= static_cast<unsigned>(code[2 * j + 1]) << 4;
        }
        group[j * kLanes] = static_cast<std::uint8_t>(byte);
      }
      if (gathered.rows[i] == nullptr) {
        codes.base[at] = std::numeric_limits<float>::infinity();
        codes.factors[at] = 0;
        codes.errors[at] = 0;
        continue;
      }
      for (std::size_t s = 0; s < words.n_subspaces; ++s) {
        std::copy_n(words.words + (s * words.n_words() + code[s]) * length, length, decoded.data() + s * length);
      }
      const float* const residual = y + i * stride;
      const double length2 = dot(residual, residual, dim);
      const double product = dot(residual, decoded.data(), dim);
      codes.factors[at] = to_bf16(product > 0 ? length2 / product : 0.0);
      // With the factor as it is kept, so that the estimate of a product with the row itself is what it says.
      const auto factor = static_cast<double>(from_bf16(codes.factors[at]));
      const double error2 = sum_of(dim, [&](std::size_t d) {
        const double left = static_cast<double>(residual[d]) - factor * static_cast<double>(decoded[d]);
        return left * left;
      });
      codes.errors[at] = to_bf16(std::sqrt(error2), 0xFFFF);
      const double beside = factor * dot(centroids.data() + centroid[i] * stride, decoded.data(), dim);
      const double own = store.metric == Metric::kL2
                             ? length2 / 2
                             : -dot(plan.centroids + centroid[i] * dim, residuals.data() + i * dim, dim);
      codes.base[at] = static_cast<float>(own + beside);
    }
  });
}

bool scan_products(const Kernels& kernels, const Store& store, const ProductPlan& plan, const ProductCodes& codes,
                   const Request& request, const Output& output, std::size_t n_threads, const Interrupt& interrupt) {
  const Funnel funnel{kernels, store, codes, request, output};
  return search_lists<Shortlist>(store, request, Plan(kernels, store, plan, codes, request), funnel, n_threads,
                                 interrupt);
}

}  // namespace lw
