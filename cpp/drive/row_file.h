// Rows in a file that is larger than memory may be: those that are named are asked for all at once, read and scored,
// and no more pages of the file stay in memory than allowed.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "rows.h"
#include "threads.h"

namespace lw {

// Why rows could not be scored.
struct RowFault {
  enum Kind : int { kNone, kSystem, kEnd, kNotFinite, kTooLong };
  Kind kind = kNone;
  std::int64_t row = -1;
  int error = 0;  // errno for kSystem
};

// All members may be called from many threads at once.
class RowFile {
 public:
  // n rows of `dim` numbers from byte `offset` on, in a file that is open for reading: the descriptor is ours now.
  // `unit` rows are of length 1 as the cosine wants them; others are normalised as they are read. At most cache_bytes
  // of the file are left in memory after a call.
  RowFile(int descriptor, std::uint64_t offset, std::size_t n, std::size_t dim, Number type, bool unit,
          std::uint64_t cache_bytes);
  ~RowFile();
  RowFile(const RowFile&) = delete;
  RowFile& operator=(const RowFile&) = delete;

  std::size_t n() const { return n_; }
  std::size_t dim() const { return dim_; }

  // As score_lists. Returns false if interrupted, or if a row could not be scored: then `fault` says why.
  [[nodiscard]] bool score(const Kernels& kernels, Metric metric, const float* queries, std::size_t n_queries,
                           const std::int64_t* ids, std::size_t n_ids, float* distances, RowFault& fault,
                           std::size_t n_threads, const Interrupt& interrupt);

  // Bytes of the pages that were not in memory when they were asked for.
  std::uint64_t bytes_read() const;

  // Bytes of the pages of rows that are in memory, as the system says: for a file that this user may not write, Linux
  // says all. -1 where it cannot be asked.
  std::int64_t resident_bytes() const;

 private:
  using Pages = std::vector<std::uint64_t>;  // ascending

  Pages pages_of(const std::int64_t* ids, std::size_t n) const;
  void ask_for(const Pages& pages);
  void keep(const Pages& pages);
  RowFault read(std::int64_t row, void* to) const;

  int descriptor_;
  std::uint64_t offset_;
  std::size_t n_;
  std::size_t dim_;
  Number type_;
  bool unit_;
  std::size_t row_bytes_;
  std::uint64_t page_bytes_;
  std::uint64_t most_pages_;

  // The rest is guarded by the mutex. What is in memory of our doing, oldest first; a page that was asked for again
  // since it came to the end of the queue goes there once more instead of being dropped.
  mutable std::mutex mutex_;
  std::deque<std::uint64_t> queue_;
  std::vector<bool> present_;  // of all pages of the rows
  std::vector<bool> again_;
  std::uint64_t pages_read_ = 0;
};

}  // namespace lw
