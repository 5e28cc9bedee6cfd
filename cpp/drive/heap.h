// A heap that leaves equal distances in the very order in which hnswlib has them.
//
// hnswlib keeps std::priority_queue, and compares distances alone: which of two equal ones comes out first is up to the
// standard library, and libstdc++'s answer is what its users see. Its rule, written out, makes ours the same on every
// system: what is taken out leaves a hole that moves down to a leaf, past the better child, the second one if both are
// equal, and the last element rises from there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lw {

struct Node {
  float distance;
  std::uint32_t id;
};

struct Nearer {
  static bool before(float a, float b) { return a < b; }
};
struct Farther {
  static bool before(float a, float b) { return a > b; }
};

// The first of all, by Order, is at the top.
template <class Order>
class Heap {
 public:
  bool empty() const { return nodes_.empty(); }
  std::size_t size() const { return nodes_.size(); }
  const Node& top() const { return nodes_.front(); }
  void clear() { nodes_.clear(); }
  const std::vector<Node>& nodes() const { return nodes_; }

  void push(Node node) {
    nodes_.push_back(node);
    rise(nodes_.size() - 1, node);
  }

  void pop() {
    const Node last = nodes_.back();
    nodes_.pop_back();
    const std::size_t n = nodes_.size();
    if (n == 0) return;
    std::size_t hole = 0;
    std::size_t child = 2;
    for (; child < n; child = 2 * hole + 2) {
      child -= Order::before(nodes_[child - 1].distance, nodes_[child].distance) ? 1 : 0;
      nodes_[hole] = nodes_[child];
      hole = child;
    }
    if (child == n) {
      nodes_[hole] = nodes_[child - 1];
      hole = child - 1;
    }
    rise(hole, last);
  }

 private:
  void rise(std::size_t hole, Node node) {
    while (hole > 0) {
      const std::size_t parent = (hole - 1) / 2;
      if (!Order::before(node.distance, nodes_[parent].distance)) break;
      nodes_[hole] = nodes_[parent];
      hole = parent;
    }
    nodes_[hole] = node;
  }

  std::vector<Node> nodes_;
};

}  // namespace lw
