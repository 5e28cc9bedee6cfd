#include "graph.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../prefetch.h"
#include "heap.h"

namespace lw {

class GraphScratch {
 public:
  explicit GraphScratch(const Graph& graph) : visited_(graph.n, 0) {
    const std::size_t most = std::max(graph.max_m0, graph.max_m) + kCountersTogether;
    fresh.resize(most);
    distances.resize(most);
    bounds.resize(most);
    products.resize(most);
    words0.resize(most);
    words1.resize(most);
    counters.resize(most);
  }

  void forget() {
    if (++generation_ != 0) return;
    std::fill(visited_.begin(), visited_.end(), std::uint8_t{0});
    generation_ = 1;
  }
  std::uint8_t generation() const { return generation_; }
  std::uint8_t* visited() { return visited_.data(); }

  Heap<Nearer> candidates;
  Heap<Farther> best;
  std::vector<std::int64_t> fresh;  // neighbours not seen before
  std::vector<float> distances;     // and how far they are
  std::vector<float> bounds, factors;
  std::vector<std::int32_t> products;
  std::vector<std::uint64_t> counters, words0, words1;
  std::vector<std::int8_t> query_codes;
  std::vector<double> weighted;
  std::vector<std::int64_t> rows;
  std::vector<float> exact;

 private:
  std::vector<std::uint8_t> visited_;
  std::uint8_t generation_ = 0;
};

GraphScratches::GraphScratches() = default;
GraphScratches::~GraphScratches() = default;

std::unique_ptr<GraphScratch> GraphScratches::take(const Graph& graph) {
  // Who finds it locked, maybe for ever because the process was forked, makes a new one.
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock() && !idle_.empty()) {
    std::unique_ptr<GraphScratch> scratch = std::move(idle_.back());
    idle_.pop_back();
    return scratch;
  }
  return std::make_unique<GraphScratch>(graph);
}

void GraphScratches::give_back(std::unique_ptr<GraphScratch> scratch) {
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock()) idle_.push_back(std::move(scratch));
}

namespace {

constexpr std::size_t kLine = 64;
// Bytes of each row that are asked for before the first is scored; the kernels ask for more of long ones.
constexpr std::size_t kMostBytes = 8 * kLine;
constexpr float kFarthest = std::numeric_limits<float>::max();
constexpr float kNoBound = std::numeric_limits<float>::infinity();

void ask_for_bytes(const void* from, std::size_t n) {
  for (std::size_t byte = 0; byte < n; byte += kLine) LW_PREFETCH(static_cast<const char*>(from) + byte);
}

// Those that steer score elements. What is at the bound or beyond may be given any such distance.

// The distance that decides: |q - x|^2, or -q.x for both kinds of product, which unlike 1 - q.x is not rounded again.
class ByRows {
 public:
  ByRows(const Kernels& kernels, const Graph& graph, const GraphRequest& request, std::size_t q, GraphScratch&)
      : score_(graph.metric == Metric::kL2 ? kernels.l2_rows : kernels.dot_rows),
        graph_(graph),
        query_(request.queries + q * graph.dim),
        n_asked_for_(std::min(kMostBytes, graph.dim * sizeof(float))) {}

  void ask_for(std::int64_t id) const {
    ask_for_bytes(graph_.rows + static_cast<std::size_t>(id) * graph_.dim, n_asked_for_);
  }

  void score(const std::int64_t* ids, std::size_t n, float, float* distances) const {
    score_(query_, graph_.rows, ids, n, graph_.dim, distances);
    if (graph_.metric == Metric::kL2) return;
    for (std::size_t i = 0; i < n; ++i) distances[i] = -distances[i];
  }

 private:
  decltype(Kernels::l2_rows) score_;
  const Graph& graph_;
  const float* query_;
  std::size_t n_asked_for_;
};

// The nearest whole number, the even one of two, of what is below 2^31: without a call for each.
int nearest(double x) {
  constexpr double kWholeFrom = 0x1.8p52;
  return static_cast<int>((x + kWholeFrom) - kWholeFrom);
}

// The same, less what is equal for all rows, estimated from codes: integer products, and one step in float for each.
class ByCodes {
 public:
  ByCodes(const Kernels& kernels, const Graph& graph, const GraphRequest& request, std::size_t q, GraphScratch& scratch)
      : dot_(kernels.dot_of(graph.codes->bits)),
        codes_(*graph.codes),
        query_codes_(scratch.query_codes),
        products_(scratch.products),
        weighted_(scratch.weighted),
        n_asked_for_(std::min(kMostBytes, codes_.stride)) {
    const bool l2 = graph.metric == Metric::kL2;
    const float* const query = request.queries + q * graph.dim;
    weighted_.resize(graph.dim);
    double largest = 0.0;
    for (std::size_t d = 0; d < graph.dim; ++d) {
      const double centred = static_cast<double>(query[d]) - (l2 ? static_cast<double>(codes_.center[d]) : 0.0);
      weighted_[d] = centred * static_cast<double>(codes_.step[d]);
      largest = std::max(largest, std::abs(weighted_[d]));
    }
    query_codes_.assign(codes_.n_codes(), 0);
    for (std::size_t d = 0; d < graph.dim && largest > 0.0; ++d) {
      query_codes_[d] = static_cast<std::int8_t>(nearest(weighted_[d] / largest * 127.0));
      sum_ += query_codes_[d];
    }
    weight_ = static_cast<float>((l2 ? 2.0 : 1.0) * largest / 127.0);
  }

  void ask_for(std::int64_t id) const {
    ask_for_bytes(codes_.codes + static_cast<std::size_t>(id) * codes_.stride, n_asked_for_);
    LW_PREFETCH(codes_.base + id);
  }

  void score(const std::int64_t* ids, std::size_t n, float, float* distances) const {
    dot_(query_codes_.data(), sum_, codes_.codes, codes_.stride, ids, n, codes_.n_codes(), products_.data());
    for (std::size_t i = 0; i < n; ++i) {
      distances[i] = codes_.base[ids[i]] - weight_ * static_cast<float>(products_[i]);
    }
  }

 private:
  decltype(Kernels::dot_codes) dot_;
  const GraphCodes& codes_;
  std::vector<std::int8_t>& query_codes_;
  std::vector<std::int32_t>& products_;
  std::vector<double>& weighted_;
  std::size_t n_asked_for_;
  std::int32_t sum_ = 0;
  float weight_;
};

// ADSampling (Gao & Long 2023) on rotated rows: |q - x|^2, or -q.x by way of it, and infinity for a row that is left.
class ByRotated {
 public:
  ByRotated(const Kernels& kernels, const Graph& graph, const GraphRequest& request, std::size_t q,
            GraphScratch& scratch)
      : kernels_(kernels),
        rows_(*graph.rotated),
        dim_(graph.dim),
        query_(request.rotated + q * graph.dim),
        bounds_(scratch.bounds),
        factors_(scratch.factors),
        n_asked_for_(std::min(kMostBytes, graph.dim * sizeof(float))) {
    if (rows_.norms != nullptr) kernels.dot_rows(query_, query_, nullptr, 1, dim_, &norm_);
    factors_.clear();
    for (std::size_t seen = kStep; seen < dim_; seen += kStep) {
      const double i = static_cast<double>(seen);
      const double factor = 1 + request.eps0 / std::sqrt(i);
      factors_.push_back(static_cast<float>(std::min(1.0, i / static_cast<double>(dim_) * factor * factor)));
    }
    factors_.push_back(1.0f);
  }

  void ask_for(std::int64_t id) const {
    ask_for_bytes(rows_.rows + static_cast<std::size_t>(id) * dim_, n_asked_for_);
    if (rows_.norms != nullptr) LW_PREFETCH(rows_.norms + id);
  }

  void score(const std::int64_t* ids, std::size_t n, float bound, float* distances) const {
    for (std::size_t i = 0; i < n; ++i) bounds_[i] = bound_of(ids[i], bound);
    kernels_.l2_rows_within(query_, rows_.rows, ids, n, dim_, bounds_.data(), kStep, factors_.data(), distances);
    if (rows_.norms == nullptr) return;
    for (std::size_t i = 0; i < n; ++i) distances[i] = 0.5f * (distances[i] - both_norms(ids[i]));
  }

 private:
  static constexpr std::size_t kStep = 2 * kLanes;

  float both_norms(std::int64_t id) const { return norm_ + rows_.norms[id]; }

  // |q - x|^2 = |q|^2 + |x|^2 - 2 q.x turns a bound on -q.x into one on the left side. It is raised by more than it
  // was rounded by, so that what exceeds it is no nearer than the bound when it is turned back.
  float bound_of(std::int64_t id, float bound) const {
    if (rows_.norms == nullptr) return bound;
    const float turned = 2 * bound + both_norms(id);
    return turned + 0x1p-22f * std::abs(turned);
  }

  const Kernels& kernels_;
  const GraphRotated& rows_;
  std::size_t dim_;
  const float* query_;
  std::vector<float>& bounds_;
  std::vector<float>& factors_;
  std::size_t n_asked_for_;
  float norm_ = 0;
};

// One query's way through the graph.
template <class Steer>
class Walk {
 public:
  Walk(const Kernels& kernels, const Graph& graph, const GraphRequest& request, std::size_t q, GraphScratch& scratch)
      : kernels_(kernels),
        graph_(graph),
        request_(request),
        key_(request.owner == nullptr ? nullptr : request.keys + 2 * q),
        query_(request.queries + q * graph.dim),
        scratch_(scratch),
        steer_(kernels, graph, request, q, scratch) {}

  void run(float* distances, std::int64_t* ids, GraphStats* stats) {
    begin();
    go_on([](const Node&) { return true; });
    answer(distances, ids, stats);
  }

  // Down to level 0, where nothing is expanded yet.
  void begin() {
    Node start = descend();
    scratch_.candidates.clear();
    scratch_.best.clear();
    scratch_.forget();
    scratch_.fresh[0] = start.id;
    find_owners(1);
    if (may_answer(0)) {
      scratch_.best.push(start);
    } else {
      start.distance = kFarthest;
    }
    scratch_.candidates.push(start);
    scratch_.visited()[start.id] = scratch_.generation();
  }

  // Asks `may` before each element is expanded. Returns whether there was none left, false if it may not.
  template <class May>
  bool go_on(May may) {
    if (request_.allowed == nullptr && request_.owner == nullptr) return search_level0<false>(may);
    return search_level0<true>(may);
  }

  // Writes what was found. Only the nearest of it are kept.
  void answer(float* distances, std::int64_t* ids, GraphStats* stats) {
    auto& best = scratch_.best;
    const std::size_t kept = graph_.steered_by_rows() ? request_.k : request_.rerank;
    while (best.size() > kept) best.pop();
    TopK top(request_.k);
    if (graph_.steered_by_rows()) {
      for (const Node& node : best.nodes()) top.push({canonical(node.distance), graph_.label(node.id)});
      stats_.settled = stats_.distances;
    } else {
      auto& rows = scratch_.rows;
      rows.clear();
      for (const Node& node : best.nodes()) rows.push_back(node.id);
      scratch_.exact.resize(rows.size());
      score_rows(kernels_, graph_.metric, query_, graph_.rows, rows.data(), rows.size(), graph_.dim,
                 scratch_.exact.data());
      for (std::size_t i = 0; i < rows.size(); ++i) {
        top.push({scratch_.exact[i], graph_.label(static_cast<std::uint32_t>(rows[i]))});
      }
      stats_.settled = rows.size();
    }
    top.write(distances, ids);
    *stats = stats_;
  }

  float canonical(float distance) const {
    return graph_.metric == Metric::kCosine ? std::max(0.0f, 1.0f + distance) : distance;
  }

  bool allowed(std::size_t id) const {
    return request_.allowed == nullptr || (request_.allowed[id / 64] >> id % 64 & 1) != 0;
  }

 private:
  // From the entrance down to level 1, always to the nearest of all neighbours.
  Node descend() {
    std::int64_t* const ids = scratch_.fresh.data();
    ids[0] = graph_.enter;
    Node now{score(1, kNoBound)[0], graph_.enter};
    for (std::size_t level = graph_.max_level; level > 0; --level) {
      for (bool moved = true; moved;) {
        moved = false;
        const std::uint32_t* const links = graph_.upper_links(now.id, level);
        std::size_t n = 0;
        for (; n < graph_.max_m && links[n] != kNoLink; ++n) ids[n] = links[n];
        ++stats_.hops;
        const float* const distances = score(n, now.distance);
        for (std::size_t i = 0; i < n; ++i) {
          if (!(distances[i] < now.distance)) continue;
          now = {distances[i], static_cast<std::uint32_t>(ids[i])};
          moved = true;
        }
      }
    }
    return now;
  }

  template <bool kSome, class May>
  bool search_level0(May may) {
    auto& candidates = scratch_.candidates;
    auto& best = scratch_.best;
    std::uint8_t* const visited = scratch_.visited();
    const std::uint8_t generation = scratch_.generation();
    std::int64_t* const fresh = scratch_.fresh.data();
    const std::size_t ef = request_.ef;
    float bound = best.empty() ? kFarthest : best.top().distance;
    while (!candidates.empty()) {
      const Node node = candidates.top();
      if (node.distance > bound && best.size() == ef) break;
      if (!may(node)) return false;
      candidates.pop();
      const std::uint32_t* const links = graph_.links + std::size_t{node.id} * graph_.max_m0;
      std::size_t n = 0;
      // Whether a neighbour was seen is as good as random: a branch on it would be guessed wrong too often.
      for (std::size_t i = 0; i < graph_.max_m0 && links[i] != kNoLink; ++i) {
        const std::uint32_t id = links[i];
        fresh[n] = id;
        n += visited[id] != generation ? 1 : 0;
        visited[id] = generation;
      }
      ++stats_.expanded;
      // The likely next one: its links come while these are scored.
      if (!candidates.empty()) ask_for_links(candidates.top().id);
      const float* const distances = score(n, best.size() >= ef ? bound : kNoBound);
      if (kSome) find_owners(n);
      for (std::size_t i = 0; i < n; ++i) {
        if (best.size() >= ef && !(bound > distances[i])) continue;
        const Node found{distances[i], static_cast<std::uint32_t>(fresh[i])};
        candidates.push(found);
        if (!kSome || may_answer(i)) {
          best.push(found);
          if (best.size() > ef) best.pop();
        }
        if (!best.empty()) bound = best.top().distance;
      }
      if (!candidates.empty()) ask_for_links(candidates.top().id);
    }
    return true;
  }

  void ask_for_links(std::uint32_t node) const {
    ask_for_bytes(graph_.links + std::size_t{node} * graph_.max_m0, graph_.max_m0 * sizeof(std::uint32_t));
  }

  // Distances of the first n that are fresh; of those at the bound or beyond, that they are.
  const float* score(std::size_t n, float bound) {
    for (std::size_t i = 0; i < n; ++i) steer_.ask_for(scratch_.fresh[i]);
    steer_.score(scratch_.fresh.data(), n, bound, scratch_.distances.data());
    stats_.distances += n;
    return scratch_.distances.data();
  }

  void find_owners(std::size_t n) {
    if (request_.owner == nullptr) return;
    for (std::size_t i = 0; i < n; ++i) {
      scratch_.counters[i] = static_cast<std::uint64_t>(graph_.label(static_cast<std::uint32_t>(scratch_.fresh[i])));
    }
    request_.owner->draw(kernels_, key_, scratch_.counters.data(), n, scratch_.words0.data(), scratch_.words1.data());
  }

  // Whether number i of those that are fresh may be among the answers.
  bool may_answer(std::size_t i) const {
    const auto id = static_cast<std::size_t>(scratch_.fresh[i]);
    if (!allowed(id)) return false;
    if (request_.owner == nullptr) return true;
    const std::size_t lane = request_.owner->lane(scratch_.words0[i], scratch_.words1[i]);
    return lane == Ownership::kEverybody || lane == request_.lane;
  }

  const Kernels& kernels_;
  const Graph& graph_;
  const GraphRequest& request_;
  const std::uint64_t* key_;
  const float* query_;
  GraphScratch& scratch_;
  Steer steer_;
  GraphStats stats_;
};

template <class Steer>
class Stream final : public GraphStream {
 public:
  Stream(const Kernels& kernels, const Graph& graph, const GraphRequest& request, GraphScratches& scratches)
      : graph_(graph),
        request_(request),
        scratches_(scratches),
        scratch_(scratches.take(graph)),
        walk_(kernels, graph_, request_, 0, *scratch_) {}

  ~Stream() override { scratches_.give_back(std::move(scratch_)); }

  std::size_t advance(std::size_t n, float* distances, std::int64_t* ids) override {
    begin();
    std::size_t n_found = 0;
    ended_ = walk_.go_on([&](const Node& node) {
      if (n-- == 0) return false;
      if (!walk_.allowed(node.id)) return true;
      distances[n_found] = walk_.canonical(node.distance);
      ids[n_found++] = graph_.label(node.id);
      nearest_.push(node);
      if (nearest_.size() > request_.k) nearest_.pop();
      return true;
    });
    return n_found;
  }

  bool ended() const override { return ended_; }

  float bound() const override {
    // Of what was found the ef nearest are known, of what was expanded the k nearest.
    float bound = kNoBound;
    if (begun_ && scratch_->best.size() == request_.ef) bound = scratch_->best.top().distance;
    if (nearest_.size() == request_.k) bound = std::min(bound, nearest_.top().distance);
    return walk_.canonical(bound);
  }

  void answer(float* distances, std::int64_t* ids, GraphStats* stats) override {
    begin();
    walk_.answer(distances, ids, stats);
  }

 private:
  void begin() {
    if (!begun_) walk_.begin();
    begun_ = true;
  }

  const Graph& graph_;
  const GraphRequest request_;
  GraphScratches& scratches_;
  std::unique_ptr<GraphScratch> scratch_;
  Walk<Steer> walk_;
  Heap<Farther> nearest_;
  bool begun_ = false;
  bool ended_ = false;
};

}  // namespace

bool search_graph(const Kernels& kernels, const Graph& graph, const GraphRequest& request, GraphScratches& scratches,
                  float* distances, std::int64_t* ids, GraphStats* stats, std::size_t n_threads,
                  const Interrupt& interrupt) {
  n_threads = std::min(n_threads, std::max<std::size_t>(request.n_queries, 1));
  std::vector<std::unique_ptr<GraphScratch>> mine(n_threads);
  const bool finished = parallel_for(request.n_queries, n_threads, interrupt, [&](std::size_t q, std::size_t worker) {
    if (mine[worker] == nullptr) mine[worker] = scratches.take(graph);
    GraphScratch& scratch = *mine[worker];
    float* const distance = distances + q * request.k;
    std::int64_t* const id = ids + q * request.k;
    if (graph.steered_by_rows()) {
      Walk<ByRows>(kernels, graph, request, q, scratch).run(distance, id, stats + q);
    } else if (graph.rotated != nullptr) {
      Walk<ByRotated>(kernels, graph, request, q, scratch).run(distance, id, stats + q);
    } else {
      Walk<ByCodes>(kernels, graph, request, q, scratch).run(distance, id, stats + q);
    }
  });
  for (auto& scratch : mine) {
    if (scratch != nullptr) scratches.give_back(std::move(scratch));
  }
  return finished;
}

std::unique_ptr<GraphStream> stream_graph(const Kernels& kernels, const Graph& graph, const GraphRequest& request,
                                          GraphScratches& scratches) {
  if (graph.steered_by_rows()) return std::make_unique<Stream<ByRows>>(kernels, graph, request, scratches);
  if (graph.rotated != nullptr) return std::make_unique<Stream<ByRotated>>(kernels, graph, request, scratches);
  return std::make_unique<Stream<ByCodes>>(kernels, graph, request, scratches);
}

bool split_lists(const std::uint8_t* lists, std::size_t size, std::size_t n, std::size_t block_bytes,
                 std::uint32_t* n_blocks, std::uint8_t* blocks) {
  // What is left for blocks: no list may take the room of the sizes behind it.
  if (size / sizeof(std::uint32_t) < n) return false;
  std::size_t left = size - n * sizeof(std::uint32_t);
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bytes;
    std::memcpy(&bytes, lists, sizeof(bytes));
    lists += sizeof(bytes);
    if (bytes % block_bytes != 0 || bytes > left) return false;
    n_blocks[i] = static_cast<std::uint32_t>(bytes / block_bytes);
    std::memcpy(blocks, lists, bytes);
    blocks += bytes;
    lists += bytes;
    left -= bytes;
  }
  return left == 0;
}

}  // namespace lw
