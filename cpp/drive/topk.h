// The k nearest so far, ordered by (distance, id) so that equal distances have one right answer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
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
  explicit TopK(std::size_t k) : k_(k) {}

  // The distance that a further candidate must reach: infinite while there is room.
  float bound() const { return heap_.size() < k_ ? std::numeric_limits<float>::infinity() : heap_.front().distance; }

  // Returns whether the candidate was taken.
  bool push(const Neighbor& candidate) {
    if (heap_.size() < k_) {
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

  // Writes the neighbours best first, then (inf, -1) up to k. Leaves the heap empty.
  void write(float* distances, std::int64_t* ids) {
    std::sort_heap(heap_.begin(), heap_.end());
    for (std::size_t i = 0; i < k_; ++i) {
      const bool found = i < heap_.size();
      distances[i] = found ? heap_[i].distance : std::numeric_limits<float>::infinity();
      ids[i] = found ? heap_[i].id : -1;
    }
    heap_.clear();
  }

 private:
  std::size_t k_;
  std::vector<Neighbor> heap_;
};

}  // namespace lw
