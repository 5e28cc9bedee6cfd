// The k nearest so far, ordered by (distance, id) so that equal distances have one right answer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace lw {

struct Neighbor {
  float distance;
  std::int64_t id;

  friend bool operator<(const Neighbor& a, const Neighbor& b) {
    return a.distance < b.distance || (a.distance == b.distance && a.id < b.id);
  }
};

class TopK {
 public:
  // Nothing farther than `radius` enters.
  explicit TopK(std::size_t k, float radius = std::numeric_limits<float>::infinity()) : k_(k), radius_(radius) {}

  // The distance that a further candidate must not exceed: the radius while there is room.
  float bound() const { return heap_.size() < k_ ? radius_ : heap_.front().distance; }

  // Returns whether the candidate was taken.
  bool push(const Neighbor& candidate) {
    if (heap_.size() < k_) {
      if (!(candidate.distance <= radius_)) return false;
      heap_.push_back(candidate);
      std::push_heap(heap_.begin(), heap_.end());
      return true;
    }
    if (k_ == 0 || !(candidate < heap_.front())) return false;
    std::pop_heap(heap_.begin(), heap_.end());
    heap_.back() = candidate;
    std::push_heap(heap_.begin(), heap_.end());
    return true;
  }

  // The neighbours, best first. Leaves the heap empty.
  std::vector<Neighbor> take() {
    std::sort_heap(heap_.begin(), heap_.end());
    return std::exchange(heap_, {});
  }

  // Writes the neighbours best first, then (inf, -1) up to k. Leaves the heap empty.
  void write(float* distances, std::int64_t* ids) {
    const std::vector<Neighbor> sorted = take();
    for (std::size_t i = 0; i < k_; ++i) {
      const bool found = i < sorted.size();
      distances[i] = found ? sorted[i].distance : std::numeric_limits<float>::infinity();
      ids[i] = found ? sorted[i].id : -1;
    }
  }

 private:
  std::size_t k_;
  float radius_;
  std::vector<Neighbor> heap_;
};

}  // namespace lw
