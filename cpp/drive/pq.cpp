#include "pq.h"

#include <cmath>

#include "aligned.h"
#include "float_mode.h"
#include "numbers.h"
#include "pack.h"
#include "runs.h"

namespace lw {
namespace {

// What a code says of a row's length is taken no farther than this: beyond it, it says nothing.
constexpr double kLargestFactor = 4.0;

// Codes of words, less kWordZero, and of queries: products of two pairs fit 16 bits, and what a sub-vector adds to a
// product has fifteen.
constexpr std::int32_t kLargestWordCode = 63;
constexpr std::int32_t kLargestQueryCode = 127;
constexpr std::int32_t kLargestEntry = (1 << 15) - 1;

// Longer sub-vectors would leave the codes of a query too few values for that.
constexpr std::size_t kLongestInTables = 16;

// Points that are met together: their sub-vectors stay in the first-level cache while all words pass them.
constexpr std::size_t kPoints = 64;

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
    Aligned<float> packed(kPoints * length);
    std::int32_t labels[kPoints];
    for (std::size_t s = 0; s < words_.n_subspaces; ++s) {
      pack(
          n, length, [&](std::size_t i) { return y + i * stride + s * length; }, shift_.data() + s * length,
          packed.data());
      kernels_.nearest_words(packed.data(), n_groups(n), length, shifted_.data() + s * words_.n_words() * length,
                             bias_.data() + s * words_.n_words(), words_.n_words(), labels);
      for (std::size_t i = 0; i < n; ++i) codes[i * words_.n_subspaces + s] = static_cast<std::uint8_t>(labels[i]);
    }
  }

 private:
  const Kernels& kernels_;
  const Words& words_;
  std::vector<float> shift_, shifted_, bias_;
};

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
        rows_(n * length),
        packed_(n_groups(n) * kLanes * length),
        labels_(n_groups(n) * kLanes, -1),
        before_(labels_.size()),
        sums_(n_words * length),
        counts_(n_words) {
    std::vector<double> sum(length);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t d = 0; d < length; ++d) sum[d] += static_cast<double>(x[i * stride + begin + d]);
    }
    for (std::size_t d = 0; d < length; ++d) shift_[d] = static_cast<float>(sum[d] / static_cast<double>(n));
    for (std::size_t i = 0; i < n; ++i) {
      const float* const part = x + i * stride + begin;
      center_rows(&part, 1, shift_.data(), length, length, rows_.data() + i * length);
    }
    pack(n, length, [&](std::size_t i) { return row(i); }, nullptr, packed_.data());
  }

  // One iteration. Returns false if no label has changed, and the words would not either.
  bool improve(float* words) {
    prepare(words, n_words_, length_, shift_.data(), shifted_.data(), bias_.data());
    labels_.swap(before_);
    kernels_.nearest_words(packed_.data(), n_groups(n_), length_, shifted_.data(), bias_.data(), n_words_,
                           labels_.data());
    if (labels_ == before_) return false;
    std::fill(counts_.begin(), counts_.end(), std::size_t{0});
    for (std::size_t i = 0; i < n_; ++i) ++counts_[static_cast<std::size_t>(labels_[i])];
    refill();
    std::fill(sums_.begin(), sums_.end(), 0.0);
    kernels_.add_to_words(rows_.data(), labels_.data(), n_, length_, sums_.data());
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
  const float* row(std::size_t i) const { return rows_.data() + i * length_; }

  // An empty word takes over the point that is farthest from its own, unless that is its only point.
  void refill() {
    std::vector<std::size_t> empty;
    for (std::size_t j = 0; j < n_words_; ++j) {
      if (counts_[j] == 0) empty.push_back(j);
    }
    if (empty.empty()) return;
    std::vector<Neighbor> farthest(n_);
    for (std::size_t i = 0; i < n_; ++i) {
      const float* const word = shifted_.data() + static_cast<std::size_t>(labels_[i]) * length_;
      farthest[i] = {static_cast<float>(-centered_norm2(row(i), word, length_)), static_cast<std::int64_t>(i)};
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
  std::vector<float> shift_, shifted_, bias_, rows_;  // rows and packed: the points less the shift
  Aligned<float> packed_;
  std::vector<std::int32_t> labels_, before_;
  std::vector<double> sums_;
  std::vector<std::size_t> counts_;
};

}  // namespace

const float* Words::on_axes(const Kernels& kernels, const float* x, std::size_t n, std::vector<float>& turned) const {
  if (panels == nullptr) return x;
  turned.resize(n * stride());
  kernels.project(x, n, dim, panels, stride() / kLanes, turned.data());
  return turned.data();
}

PreparedPlan::PreparedPlan(const Kernels& kernels, const ProductPlan& plan_)
    : plan(plan_),
      stride(plan.words.stride()),
      seen(plan.n_lists * stride),
      half_norms(plan.n_lists),
      center_dots(plan.n_lists) {
  const DefaultFloatMode mode;
  const std::size_t dim = plan.words.dim;
  std::vector<float> x(dim);
  std::vector<float> turned;
  for (std::size_t c = 0; c < plan.n_lists; ++c) {
    const float* const centroid = plan.centroids + c * dim;
    float* const own = seen.data() + c * stride;
    center_rows(&centroid, 1, plan.center, dim, dim, x.data());
    std::copy_n(plan.words.on_axes(kernels, x.data(), 1, turned), dim, own);
    half_norms[c] = static_cast<float>(dot(own, own, dim) / 2);
    center_dots[c] = static_cast<float>(-dot(plan.center, centroid, dim));
  }
  centroids.resize(n_groups(plan.n_lists) * kLanes * dim);
  pack(plan.n_lists, dim, [&](std::size_t c) { return seen.data() + c * stride; }, nullptr, centroids.data());
  number_words();
}

bool PreparedPlan::has_tables() const { return plan.words.n_bits == 4 && plan.words.length() <= kLongestInTables; }

std::int32_t PreparedPlan::largest_query_code() const {
  const auto length = static_cast<std::int32_t>(plan.words.length());
  return has_tables() ? std::min(kLargestQueryCode, kLargestEntry / (2 * kLargestWordCode * length))
                      : kLargestQueryCode;
}

// Every dimension has a step of its own, so that a query's codes are as fine as what it adds to a product is large.
void PreparedPlan::number_words() {
  const Words& words = plan.words;
  const std::size_t length = words.length();
  const std::size_t per_byte = words.n_bits == 4 ? 2 * length : length;  // coordinates
  quads = (per_byte + 3) / 4;
  n_quads = (plan.n_bytes() * quads + kLanes - 1) / kLanes * kLanes;
  word_steps.resize(words.dim);
  places.resize(words.dim);
  if (words.n_bits == 4) {
    nibbles.resize(plan.n_bytes() * quads * 4 * kLanes);
  } else {
    bytes.resize(plan.n_bytes() * quads * words.n_words());
  }
  for (std::size_t d = 0; d < words.dim; ++d) {
    const std::size_t byte = d / per_byte;
    const std::size_t number = d % per_byte;
    places[d] = static_cast<std::uint32_t>(byte * quads * 4 + number);
    const float* const first = words.words + d / length * words.n_words() * length + d % length;
    float largest = 0.0f;
    for (std::size_t w = 0; w < words.n_words(); ++w) largest = std::max(largest, std::abs(first[w * length]));
    word_steps[d] = largest / static_cast<float>(kLargestWordCode);
    for (std::size_t w = 0; w < words.n_words(); ++w) {
      const float step = word_steps[d];
      const std::int32_t code = kWordZero + (step > 0.0f ? rounded(first[w * length] / step, kLargestWordCode) : 0);
      if (words.n_bits == 4) {
        const std::size_t table = (byte / 4 * quads * 4 + number) * 4 + byte % 4;
        nibbles[table * kLanes + w] = static_cast<std::uint8_t>(code);
      } else {
        bytes[(byte * quads + number / 4) * words.n_words() + w] |= code << 8 * (number % 4);
      }
    }
  }
}

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
    coder.encode(words.on_axes(kernels, x + first * words.dim, count, turned), count, words.stride(),
                 codes + first * words.n_subspaces);
  });
}

bool fill_products(const Kernels& kernels, const Store& store, const PreparedPlan& prepared, const ProductCodes& codes,
                   std::size_t first, std::size_t last, std::size_t n_threads, const Interrupt& interrupt) {
  const DefaultFloatMode mode;
  const ProductPlan& plan = prepared.plan;
  const Words& words = plan.words;
  const std::size_t dim = words.dim;
  const std::size_t length = words.length();
  const std::size_t stride = prepared.stride;
  const std::size_t n_bytes = plan.n_bytes();
  const Coder coder(kernels, words);
  const std::size_t n_pieces = (last - first + kRowsTogether - 1) / kRowsTogether;
  return parallel_for(n_pieces, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
    const std::size_t begin = first + piece * kRowsTogether;
    const std::size_t n = std::min(kRowsTogether, last - begin);
    const Gathered gathered(store, begin, n);
    std::vector<float> residuals(n * dim);
    std::vector<std::size_t> list(n);
    for (std::size_t i = 0; i < n; ++i) {
      list[i] = store.list_at(begin + i);
      const float* const from = plan.by_residual ? plan.centroids + list[i] * dim : plan.center;
      center_rows(gathered.rows + i, 1, from, dim, dim, residuals.data() + i * dim);
    }
    std::vector<float> turned;
    const float* const y = words.on_axes(kernels, residuals.data(), n, turned);
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
      codes.factors[at] = to_bf16(product > 0 ? std::min(length2 / product, kLargestFactor) : 0.0);
      // With the factor as it is kept, so that the estimate of a product with the row itself is what it says.
      const auto factor = static_cast<double>(from_bf16(codes.factors[at]));
      const double error2 = sum_of(dim, [&](std::size_t d) {
        const double left = static_cast<double>(residual[d]) - factor * static_cast<double>(decoded[d]);
        return left * left;
      });
      codes.errors[at] = to_bf16(std::sqrt(error2), 0xFFFF);
      const float* const from = plan.by_residual ? plan.centroids + list[i] * dim : plan.center;
      const double own = store.metric == Metric::kL2 ? length2 / 2 : -dot(from, residuals.data() + i * dim, dim);
      const double beside =
          plan.by_residual ? factor * dot(prepared.seen.data() + list[i] * stride, decoded.data(), dim) : 0.0;
      codes.base[at] = static_cast<float>(own + beside);
    }
  });
}

}  // namespace lw
