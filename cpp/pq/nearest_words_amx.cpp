// The nearest code words on AMX: products of two bfloat16 digits each tell the words of all points but a few.
//
// With x = x1 + x2 and w = w1 + w2, both but for 2^-16 of themselves, x1 w1 + x2 w1 + x1 w2 is x w but for 3 * 2^-16 of
// its size: one instruction does that for sixteen words and sixteen points of up to nine dimensions. Its sums round in
// an order of its own, so they only say among which sixteen words a point's is: if those are ahead of all others by
// more than all of this can hide, the float products that every ISA has choose among them, and otherwise among all.
// Everybody gets the same words.
#include <cstring>

#include "../isa/amx.h"
#include "nearest_words.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kTileWords = 16;
constexpr std::size_t kGroupsTogether = 16;
constexpr std::size_t kPairs = 16;  // of digits, in a tile's row
constexpr std::size_t kMostTiles = 2;
constexpr std::size_t kMostWords = 256;
constexpr std::size_t kFewestDim = 5;  // floats are as fast for shorter ones
constexpr std::size_t kMostDim = 20;
constexpr std::size_t kFewestWords = 64;   // a multiple of four tiles
constexpr std::size_t kFewestGroups = 32;  // for which it pays to split the words into digits

// Of each coordinate both digits, the words' second digits two by two, and three digits of the bias.
LW_INLINE std::size_t n_pairs(std::size_t dim) { return dim + (dim + 1) / 2 + 2; }

struct Digits {
  std::uint16_t first, second, third;
};

LW_INLINE std::uint32_t word_of(float x) {
  std::uint32_t word;
  std::memcpy(&word, &x, sizeof(word));
  return word;
}
LW_INLINE float float_of(std::uint32_t word) {
  float x;
  std::memcpy(&x, &word, sizeof(x));
  return x;
}
// The nearest bfloat16, as a float's upper half.
LW_INLINE std::uint32_t nearest_digit(float x) { return (word_of(x) + 0x8000u) & 0xFFFF0000u; }
LW_INLINE Digits digits(float x) {
  const std::uint32_t first = nearest_digit(x);
  const float rest = x - float_of(first);
  const std::uint32_t second = nearest_digit(rest);
  const std::uint32_t third = nearest_digit(rest - float_of(second));
  return {static_cast<std::uint16_t>(first >> 16), static_cast<std::uint16_t>(second >> 16),
          static_cast<std::uint16_t>(third >> 16)};
}

// Words as rows of pairs, and the largest of what they have; and as floats, sixteen side by side.
struct SplitWords {
  alignas(64) std::uint16_t pairs[kMostWords / kTileWords][kMostTiles][kTileWords][kPairs][2];
  float largest[kMostTiles * kPairs];
  float largest_bias = 0.0f;
  alignas(64) float panels[kMostWords * kMostDim];
  const float* bias;

  SplitWords(const float* words, const float* bias_of, std::size_t n_words, std::size_t dim, std::size_t n_tiles)
      : bias(bias_of) {
    for (std::size_t d = 0; d < dim; ++d) largest[d] = 0.0f;
    for (std::size_t j = 0; j < n_words; ++j) {
      const auto put = [&](std::size_t pair, std::uint16_t a, std::uint16_t b) {
        std::uint16_t* const at = pairs[j / kTileWords][pair / kPairs][j % kTileWords][pair % kPairs];
        at[0] = a;
        at[1] = b;
      };
      const auto size = [](float x) { return x < 0.0f ? -x : x; };
      std::uint16_t seconds[kMostTiles * kPairs] = {};
      for (std::size_t d = 0; d < dim; ++d) {
        const float w = words[j * dim + d];
        panels[(j / kLanes * dim + d) * kLanes + j % kLanes] = w;
        const Digits digit = digits(w);
        put(d, digit.first, digit.first);
        seconds[d] = digit.second;
        largest[d] = size(w) > largest[d] ? size(w) : largest[d];
      }
      std::size_t pair = dim;
      for (std::size_t d = 0; d < dim; d += 2, ++pair) put(pair, seconds[d], seconds[d + 1]);
      const Digits digit = digits(bias[j]);
      put(pair, digit.first, digit.second);
      put(pair + 1, digit.third, 0);
      for (pair += 2; pair < n_tiles * kPairs; ++pair) put(pair, 0, 0);
      largest_bias = size(bias[j]) > largest_bias ? size(bias[j]) : largest_bias;
    }
  }
};

// A group of points as columns of pairs, and how far apart two scores must be.
struct SplitPoints {
  alignas(64) std::uint32_t pairs[kMostTiles * kPairs][kLanes];
  F32 doubt;

  LW_INLINE void split(const float* points, std::size_t dim, const SplitWords& words, std::size_t n_tiles) {
    // Digits below the smallest normal number count as zero.
    constexpr float kTiny = 0x1p-100f;
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
    const __m512i half = _mm512_set1_epi32(0x8000);
    const __m512i no_sign = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i before = _mm512_setzero_si512();
    F32 size = set(words.largest_bias);
    for (std::size_t d = 0; d < dim; ++d) {
      const __m512 x = _mm512_loadu_ps(points + d * kLanes);
      const __m512i first = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
      const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(first));
      const __m512i second = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(rest), half), upper);
      _mm512_store_si512(pairs[d], _mm512_or_si512(_mm512_srli_epi32(first, 16), second));
      const __m512i low = _mm512_srli_epi32(first, 16);
      if (d % 2 == 0) {
        before = low;
        _mm512_store_si512(pairs[dim + d / 2], low);
      } else {
        _mm512_store_si512(pairs[dim + d / 2], _mm512_or_si512(before, first));
      }
      const F32 large{_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), no_sign))};
      size = fma(add(large, set(kTiny)), set(words.largest[d] + kTiny), size);
    }
    constexpr int kOne = 0x3F80;
    std::size_t pair = dim + (dim + 1) / 2;
    _mm512_store_si512(pairs[pair], _mm512_set1_epi32(kOne << 16 | kOne));
    _mm512_store_si512(pairs[pair + 1], _mm512_set1_epi32(kOne));
    for (pair += 2; pair < n_tiles * kPairs; ++pair) _mm512_store_si512(pairs[pair], _mm512_setzero_si512());
    // Of both scores: the product of second digits and two with rests, each about 2^-16 of the coordinates' product at
    // most; at most 72 roundings here and 24 of the floats; 0.02 for what "about" leaves out and this itself rounds.
    // And products and sums below the smallest normal number, which count as zero.
    constexpr float kOff = 2 * 1.02f * (3 * 0x1p-16f + 96 * 0x1p-24f);
    doubt = fma(set(kOff), size, set(0x1p-110f));
  }
};

// The tile with the best word of each of sixteen points so far, and the best score in any other tile.
struct Best {
  F32 score = set(-3.402823466e+38f);
  F32 second = set(-3.402823466e+38f);
  I32 tile = set_i32(0);

  LW_INLINE void meet(const float (*products)[kLanes], std::size_t number) {
    F32 top[4];
    for (std::size_t i = 0; i < 4; ++i) {
      top[i] = max(max(load(products[i]), load(products[i + 4])), max(load(products[i + 8]), load(products[i + 12])));
    }
    const F32 all = max(max(top[0], top[1]), max(top[2], top[3]));
    const Mask better = greater(all, score);
    second = max(second, min(all, score));
    score = max(score, all);
    tile = select(better, set_i32(static_cast<std::int32_t>(number)), tile);
  }
};

// The word among sixteen that is nearest to member l of a group by floats, whose score is at least `least`.
LW_INLINE std::int32_t nearest_of_tile(const float* group, std::size_t l, const SplitWords& words, std::size_t dim,
                                       std::size_t tile, float least) {
  const float* const panel = words.panels + tile * dim * kLanes;
  F32 score = load(words.bias + tile * kLanes);
  LW_UNROLL_4
  for (std::size_t d = 0; d < dim; ++d) score = fma(set(group[d * kLanes + l]), load(panel + d * kLanes), score);
  std::uint32_t near = ~bits(greater(set(least), score)) & 0xFFFF;
  if ((near & (near - 1)) != 0) near = ~bits(greater(set(largest(score)), score)) & 0xFFFF;
  return static_cast<std::int32_t>(tile * kTileWords) + __builtin_ctz(near | 1u << 15);
}

// Words stay in four registers, a group of points in one or two, and products take turns in the others.
template <std::size_t T>
LW_INLINE void load_words(const SplitWords& words, std::size_t first) {
  _tile_loadd(0, words.pairs[first][0], 64);
  if constexpr (T == 1) {
    _tile_loadd(1, words.pairs[first + 1][0], 64);
    _tile_loadd(2, words.pairs[first + 2][0], 64);
    _tile_loadd(3, words.pairs[first + 3][0], 64);
  } else {
    _tile_loadd(1, words.pairs[first][1], 64);
    _tile_loadd(2, words.pairs[first + 1][0], 64);
    _tile_loadd(3, words.pairs[first + 1][1], 64);
  }
}
template <std::size_t T>
LW_INLINE void multiply(const SplitPoints& group, float (*products)[kTileWords][kLanes]) {
  _tile_loadd(4, group.pairs, 64);
  if constexpr (T == 1) {
    _tile_zero(5);
    _tile_dpbf16ps(5, 0, 4);
    _tile_zero(6);
    _tile_dpbf16ps(6, 1, 4);
    _tile_zero(7);
    _tile_dpbf16ps(7, 2, 4);
    _tile_stored(5, products[0], 64);
    _tile_zero(5);
    _tile_dpbf16ps(5, 3, 4);
    _tile_stored(6, products[1], 64);
    _tile_stored(7, products[2], 64);
    _tile_stored(5, products[3], 64);
  } else {
    _tile_loadd(5, group.pairs + kPairs, 64);
    _tile_zero(6);
    _tile_dpbf16ps(6, 0, 4);
    _tile_zero(7);
    _tile_dpbf16ps(7, 2, 4);
    _tile_dpbf16ps(6, 1, 5);
    _tile_dpbf16ps(7, 3, 5);
    _tile_stored(6, products[0], 64);
    _tile_stored(7, products[1], 64);
  }
}

// Points whose words are in doubt, until there are enough for the registers.
struct Waiting {
  static constexpr std::size_t kMost = static_cast<std::size_t>(kGroups) * kLanes;
  std::size_t points[kMost];
  std::size_t n = 0;

  // Settles them by floats among all words.
  LW_INLINE void settle(const float* all, std::size_t dim, const float* words, const float* bias, std::size_t n_words,
                        std::int32_t* labels) {
    alignas(64) float some[kMostDim * kMost];
    std::int32_t found[kMost];
    const std::size_t n_groups = (n + kLanes - 1) / kLanes;
    for (std::size_t i = 0; i < n_groups * kLanes; ++i) {
      const std::size_t point = points[i < n ? i : 0];
      for (std::size_t d = 0; d < dim; ++d) {
        some[(i / kLanes * dim + d) * kLanes + i % kLanes] = all[(point / kLanes * dim + d) * kLanes + point % kLanes];
      }
    }
    nearest_by_floats(some, n_groups, dim, words, bias, n_words, found);
    for (std::size_t i = 0; i < n; ++i) labels[points[i]] = found[i];
    n = 0;
  }
};

template <std::size_t T>
LW_INLINE void nearest_by_tiles(const float* points, std::size_t n_groups, std::size_t dim, const float* words,
                                const float* bias, std::size_t n_words, std::int32_t* labels) {
  constexpr std::size_t kTogether = 4 / T;  // tiles of words
  const SplitWords split(words, bias, n_words, dim, T);
  SplitPoints groups[kGroupsTogether];
  Best best[kGroupsTogether];
  alignas(64) float products[2][kTogether][kTileWords][kLanes];
  Waiting waiting;
  configure_tiles();
  for (std::size_t begin = 0; begin < n_groups; begin += kGroupsTogether) {
    const std::size_t n = n_groups - begin < kGroupsTogether ? n_groups - begin : kGroupsTogether;
    for (std::size_t g = 0; g < n; ++g) {
      groups[g].split(points + (begin + g) * dim * kLanes, dim, split, T);
      best[g] = Best();
    }
    for (std::size_t tile = 0; tile < n_words / kTileWords; tile += kTogether) {
      load_words<T>(split, tile);
      multiply<T>(groups[0], products[0]);
      for (std::size_t g = 0; g < n; ++g) {
        // The products of the next group are on their way while these are compared.
        if (g + 1 < n) multiply<T>(groups[g + 1], products[(g + 1) % 2]);
        for (std::size_t i = 0; i < kTogether; ++i) best[g].meet(products[g % 2][i], tile + i);
      }
    }
    std::size_t n_doubtful = 0;
    for (std::size_t g = 0; g < n; ++g) {
      const float* const group = points + (begin + g) * dim * kLanes;
      std::int32_t* const own = labels + (begin + g) * kLanes;
      std::int32_t nearest_tile[kLanes];
      float least[kLanes];
      store(nearest_tile, best[g].tile);
      store(least, sub(best[g].score, groups[g].doubt));
      for (std::size_t l = 0; l < kLanes; ++l) {
        own[l] = nearest_of_tile(group, l, split, dim, static_cast<std::size_t>(nearest_tile[l]), least[l]);
      }
      std::uint32_t doubtful = ~bits(greater(sub(best[g].score, best[g].second), groups[g].doubt)) & 0xFFFF;
      n_doubtful += count(static_cast<std::uint16_t>(doubtful));
      for (; doubtful != 0; doubtful &= doubtful - 1) {
        waiting.points[waiting.n++] = (begin + g) * kLanes + static_cast<std::size_t>(__builtin_ctz(doubtful));
        if (waiting.n == Waiting::kMost) waiting.settle(points, dim, words, bias, n_words, labels);
      }
    }
    if (n_doubtful > n * kLanes / 2) {
      // Digits say too little about these points, and likely about those that follow.
      const std::size_t next = begin + n;
      nearest_by_floats(points + next * dim * kLanes, n_groups - next, dim, words, bias, n_words,
                        labels + next * kLanes);
      break;
    }
  }
  _tile_release();
  waiting.settle(points, dim, words, bias, n_words, labels);
}

}  // namespace

void nearest_words(const float* points, std::size_t n_groups, std::size_t dim, const float* words, const float* bias,
                   std::size_t n_words, std::int32_t* labels) {
  const bool fits = n_words >= kFewestWords && n_words <= kMostWords && n_words % (4 * kTileWords) == 0;
  if (!fits || n_groups < kFewestGroups || dim < kFewestDim || dim > kMostDim) {
    nearest_by_floats(points, n_groups, dim, words, bias, n_words, labels);
  } else if (n_pairs(dim) <= kPairs) {
    nearest_by_tiles<1>(points, n_groups, dim, words, bias, n_words, labels);
  } else {
    nearest_by_tiles<2>(points, n_groups, dim, words, bias, n_words, labels);
  }
}

}  // namespace lw::LW_ISA
