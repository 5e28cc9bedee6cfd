// Our own thread pool: fixed pieces of work, a caller that works too, and a look for Ctrl-C by the clock.
//
// Results must never depend on which thread took which piece, so bodies write only to their piece's own place.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>

namespace lw {

// Asked by the calling thread, at most every 50 ms, whether to stop early. Null means never. The clock runs on from
// one loop of a call to the next, because many short ones take long too.
struct Interrupt {
  bool (*asked)(void* context) = nullptr;
  void* context = nullptr;
  mutable std::chrono::steady_clock::time_point last_look = std::chrono::steady_clock::now();

  // Whether to stop, if it is time to ask.
  bool now() const;
};

// body(piece, worker) for every piece in [0, n_pieces), on at most n_threads threads of which the caller is one;
// worker < n_threads names the thread, for scratch space. Returns false if interrupted: some pieces then did not run.
// The first exception of a body ends the loop and is thrown again in the caller. Safe to call from many threads at
// once and after fork. A nested call runs in its caller alone.
[[nodiscard]] bool parallel_for(std::size_t n_pieces, std::size_t n_threads, const Interrupt& interrupt,
                                const std::function<void(std::size_t piece, std::size_t worker)>& body);

}  // namespace lw
