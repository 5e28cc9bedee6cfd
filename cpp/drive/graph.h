// The search of an HNSW graph: hnswlib's links and hnswlib's decisions, on rows that lie apart from the links.
//
// A node's neighbours that were not seen yet are gathered first and scored in one call, while the rows behind them are
// on their way into the cache. What is decided from the distances, and in which order, is hnswlib's (heap.h).
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "plan.h"
#include "store.h"

namespace lw {

// Stands in a list of links behind the last one.
inline constexpr std::uint32_t kNoLink = ~std::uint32_t{0};

// Codes of the rows: coordinate d of row i is about center[d] + step[d] * code.
struct GraphCodes {
  const std::int8_t* codes;  // [n, stride], as Kernels::dot_codes or dot_nibbles takes them
  const float* base;         // [n], |row - center|^2 of the decoded row, 0 for products
  std::size_t stride;        // bytes
  std::size_t bits;          // 8 or 4
  const float* center;       // [dim]
  const float* step;         // [dim]

  std::size_t n_codes() const { return bits == 8 ? stride : 2 * stride; }
};

// Rows once more, rotated at random, so that the first dimensions of a difference estimate all of it.
struct GraphRotated {
  const float* rows;   // [n, dim]
  const float* norms;  // [n], |row|^2, for products; null for L2
};

// Whoever fills this in has checked every link: those of level l lead to elements that have a level l.
struct Graph {
  std::size_t n;
  std::size_t dim;     // of the rows as they are stored, zeros behind the last coordinate
  std::size_t max_m0;  // most links of an element on level 0
  std::size_t max_m;   // and above it
  std::size_t max_level;
  std::uint32_t enter;               // where a search begins
  const std::uint32_t* links;        // [n, max_m0]
  const std::uint32_t* upper_begin;  // [n + 1]: element i has levels 1 to upper_begin[i + 1] - upper_begin[i],
  const std::uint32_t* upper;        // [upper_begin[n], max_m], level l at upper_begin[i] + l - 1
  const std::int64_t* labels;        // [n], the caller's id of each element; null if it is its number
  const float* rows;                 // [n, dim]
  Metric metric;
  // What steers the search, at most one; if both are null, the rows do.
  const GraphCodes* codes;
  const GraphRotated* rotated;

  bool steered_by_rows() const { return codes == nullptr && rotated == nullptr; }

  const std::uint32_t* upper_links(std::uint32_t node, std::size_t level) const {
    return upper + (upper_begin[node] + level - 1) * max_m;
  }
  std::int64_t label(std::uint32_t node) const {
    return labels == nullptr ? static_cast<std::int64_t>(node) : labels[node];
  }
};

struct GraphStats {
  std::uint64_t hops = 0;       // lists of links read above level 0
  std::uint64_t expanded = 0;   // and on level 0
  std::uint64_t distances = 0;  // computed to steer
  std::uint64_t settled = 0;    // rows scored exactly
};

struct GraphRequest {
  const float* queries;  // [n_queries, dim]
  std::size_t n_queries;
  std::size_t k;
  std::size_t ef;  // at least k
  // Unless rows steer: candidates, the most promising, that are scored exactly; at least k.
  std::size_t rerank;
  const float* rotated;          // [n_queries, dim], the queries as rotated rows have them; null if there are none
  double eps0;                   // the dial of rotated rows; infinite: one is left only if it is beyond
  const std::uint64_t* allowed;  // one bit an element, those that may be answered; all if null
  const Ownership* owner;        // of a lane that answers with candidates of its own only; null for all
  std::size_t lane;
  const std::uint64_t* keys;  // [n_queries, 2], for the owner
};

// What searches of one graph write to while they run. They are kept for the next call: a list of who was visited is as
// long as the graph, and a search looks at little of it.
class GraphScratch;
class GraphScratches {
 public:
  GraphScratches();
  ~GraphScratches();
  std::unique_ptr<GraphScratch> take(const Graph& graph);
  void give_back(std::unique_ptr<GraphScratch> scratch);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<GraphScratch>> idle_;
};

// Fills distances and ids [n_queries, k] and stats [n_queries]. Returns false if interrupted.
[[nodiscard]] bool search_graph(const Kernels& kernels, const Graph& graph, const GraphRequest& request,
                                GraphScratches& scratches, float* distances, std::int64_t* ids, GraphStats* stats,
                                std::size_t n_threads, const Interrupt& interrupt);

// One query's search that goes on when it is told to, so that candidates can be made use of before it has ended: an
// element that is expanded nearly always stays among the nearest. One thread at a time.
class GraphStream {
 public:
  virtual ~GraphStream() = default;
  // Expands at most n more elements. Writes those that may be answered, in the order in which they were expanded, with
  // the distances that steer, and returns how many there are.
  virtual std::size_t advance(std::size_t n, float* distances, std::int64_t* ids) = 0;
  // Whether there is nothing left to expand.
  virtual bool ended() const = 0;
  // Candidates that are farther have k nearer ones already, as far as what steers can tell.
  virtual float bound() const = 0;
  // Once, and last: writes the k nearest so far, after the end what search_graph writes.
  virtual void answer(float* distances, std::int64_t* ids, GraphStats* stats) = 0;
};

// The request is for one query, and without an owner. What it and the graph point to outlives the stream.
std::unique_ptr<GraphStream> stream_graph(const Kernels& kernels, const Graph& graph, const GraphRequest& request,
                                          GraphScratches& scratches);

// hnswlib's file ends with a list for each element: its size in bytes as a uint32, then so many. Writes the size of
// each in blocks of block_bytes, and all blocks one behind the other, size - 4 n bytes. Returns false if they do not
// fill the size exactly.
bool split_lists(const std::uint8_t* lists, std::size_t size, std::size_t n, std::size_t block_bytes,
                 std::uint32_t* n_blocks, std::uint8_t* blocks);

}  // namespace lw
