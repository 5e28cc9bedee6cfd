#include "row_file.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <memory>

#if defined(_WIN32)
#define NOMINMAX
#include <io.h>
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lw {
namespace {

// Rows in a piece of work: enough to hide what a piece costs, few enough for threads to share a single query's.
constexpr std::size_t kPerPiece = 16;

// Queries are taken together until their rows fill so much: a call that would thrash memory is several.
constexpr std::uint64_t kMostTogether = std::uint64_t{256} << 20;

std::uint64_t system_page_bytes() {
#if defined(_WIN32)
  return 4096;
#else
  return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
#endif
}

// Reads from a place in the file without moving anybody's position; returns bytes, 0 at the end, -1 and errno.
std::int64_t read_at(int descriptor, void* to, std::size_t n, std::uint64_t offset) {
#if defined(_WIN32)
  OVERLAPPED at = {};
  at.Offset = static_cast<DWORD>(offset);
  at.OffsetHigh = static_cast<DWORD>(offset >> 32);
  DWORD done = 0;
  const DWORD asked = static_cast<DWORD>(std::min<std::size_t>(n, 1u << 30));
  if (ReadFile(reinterpret_cast<HANDLE>(_get_osfhandle(descriptor)), to, asked, &done, &at)) return done;
  if (GetLastError() == ERROR_HANDLE_EOF) return 0;
  errno = EIO;
  return -1;
#else
  return pread(descriptor, to, n, static_cast<off_t>(offset));
#endif
}

void close_file(int descriptor) {
#if defined(_WIN32)
  _close(descriptor);
#else
  close(descriptor);
#endif
}

// visit(first, n) for each run of neighbouring pages.
template <class Visit>
void for_each_run(const std::vector<std::uint64_t>& pages, const Visit& visit) {
  for (std::size_t i = 0; i < pages.size();) {
    std::size_t end = i + 1;
    while (end < pages.size() && pages[end] == pages[end - 1] + 1) ++end;
    visit(pages[i], pages[end - 1] + 1 - pages[i]);
    i = end;
  }
}

std::size_t bytes_of(Number type) { return type == Number::kFloat32 ? sizeof(float) : 1; }

// Does something when it goes, however that comes about.
template <class Action>
class Finally {
 public:
  explicit Finally(const Action& action) : action_(action) {}
  ~Finally() { action_(); }
  Finally(const Finally&) = delete;
  Finally& operator=(const Finally&) = delete;

 private:
  const Action& action_;
};

}  // namespace

RowFile::RowFile(int descriptor, std::uint64_t offset, std::size_t n, std::size_t dim, Number type, bool unit,
                 std::uint64_t cache_bytes)
    : descriptor_(descriptor),
      offset_(offset),
      n_(n),
      dim_(dim),
      type_(type),
      unit_(unit),
      row_bytes_(dim * bytes_of(type)),
      page_bytes_(system_page_bytes()),
      most_pages_(cache_bytes / page_bytes_) {
  const std::uint64_t n_pages = (offset_ + n_ * row_bytes_ + page_bytes_ - 1) / page_bytes_;
  present_.resize(n_pages);
  again_.resize(n_pages);
#if defined(POSIX_FADV_RANDOM)
  // Nothing is read ahead that nobody asked for.
  posix_fadvise(descriptor_, 0, 0, POSIX_FADV_RANDOM);
#endif
}

RowFile::~RowFile() { close_file(descriptor_); }

bool RowFile::score(const Kernels& kernels, Metric metric, const float* queries, std::size_t n_queries,
                    const std::int64_t* ids, std::size_t n_ids, float* distances, RowFault& fault,
                    std::size_t n_threads, const Interrupt& interrupt) {
  const std::uint64_t query_bytes = std::max<std::uint64_t>(1, n_ids * (row_bytes_ / page_bytes_ + 1) * page_bytes_);
  const std::size_t together = std::max<std::size_t>(1, static_cast<std::size_t>(kMostTogether / query_bytes));
  const std::size_t pieces_per_query = (n_ids + kPerPiece - 1) / kPerPiece;
  const bool normalises = metric == Metric::kCosine && !unit_;
  std::mutex fault_mutex;
  for (std::size_t first = 0; first < n_queries; first += together) {
    const std::size_t m = std::min(together, n_queries - first);
    const Pages pages = pages_of(ids + first * n_ids, m * n_ids);
    const auto remember = [&] { keep(pages); };
    const Finally finally(remember);
    ask_for(pages);
    const bool finished = parallel_for(m * pieces_per_query, n_threads, interrupt, [&](std::size_t piece, std::size_t) {
      const std::size_t q = first + piece / pieces_per_query;
      const std::size_t begin = q * n_ids + piece % pieces_per_query * kPerPiece;
      const std::size_t end = std::min(begin + kPerPiece, (q + 1) * n_ids);
      const auto raw = std::make_unique_for_overwrite<float[]>((kPerPiece * row_bytes_ + 3) / sizeof(float));
      std::int64_t named[kPerPiece];
      float scores[kPerPiece];
      std::size_t n = 0;
      RowFault found;
      for (std::size_t i = begin; i < end && found.kind == RowFault::kNone; ++i) {
        if (ids[i] < 0) continue;
        char* const to = reinterpret_cast<char*>(raw.get()) + n * row_bytes_;
        found = read(ids[i], to);
        if (found.kind == RowFault::kNone && type_ == Number::kFloat32 &&
            !kernels.all_finite(raw.get() + n * dim_, dim_, 1.0f)) {
          found = {RowFault::kNotFinite, ids[i], 0};
        }
        named[n++] = ids[i];
      }
      if (found.kind == RowFault::kNone) {
        Rows rows(raw.get());
        rows.type = type_;
        std::unique_ptr<float[]> units;
        if (normalises) {
          units = std::make_unique_for_overwrite<float[]>(n * dim_);
          for (std::size_t i = 0; i < n; ++i) {
            normalize(rows.row(i, dim_, units.get() + i * dim_), 1, dim_, units.get() + i * dim_);
          }
          rows = Rows(units.get());
        }
        score_rows(kernels, metric, queries + q * dim_, rows, nullptr, n, dim_, scores);
        for (std::size_t i = 0; i < n; ++i) {
          if (!std::isfinite(scores[i])) found = {RowFault::kTooLong, named[i], 0};
        }
      }
      if (found.kind != RowFault::kNone) {
        const std::lock_guard lock(fault_mutex);
        if (fault.kind == RowFault::kNone || found.row < fault.row) fault = found;
        return;
      }
      n = 0;
      for (std::size_t i = begin; i < end; ++i) {
        distances[i] = ids[i] < 0 ? std::numeric_limits<float>::infinity() : scores[n++];
      }
    });
    if (!finished) {
      // What was found on the way is of no interest to who stopped it.
      fault = {};
      return false;
    }
    if (fault.kind != RowFault::kNone) return false;
  }
  return true;
}

RowFault RowFile::read(std::int64_t row, void* to) const {
  char* at = static_cast<char*>(to);
  std::uint64_t offset = offset_ + static_cast<std::uint64_t>(row) * row_bytes_;
  for (std::size_t left = row_bytes_; left > 0;) {
    const std::int64_t done = read_at(descriptor_, at, left, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return {RowFault::kSystem, row, errno};
    if (done == 0) return {RowFault::kEnd, row, 0};
    at += done;
    offset += static_cast<std::uint64_t>(done);
    left -= static_cast<std::size_t>(done);
  }
  return {};
}

RowFile::Pages RowFile::pages_of(const std::int64_t* ids, std::size_t n) const {
  Pages pages;
  for (std::size_t i = 0; i < n; ++i) {
    if (ids[i] < 0) continue;
    const std::uint64_t begin = offset_ + static_cast<std::uint64_t>(ids[i]) * row_bytes_;
    const std::uint64_t last = (begin + row_bytes_ - 1) / page_bytes_;
    for (std::uint64_t page = begin / page_bytes_; page <= last; ++page) pages.push_back(page);
  }
  std::sort(pages.begin(), pages.end());
  pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
  return pages;
}

// All that is not here at once, before the first of it is waited for: the disk works on many requests in parallel.
void RowFile::ask_for(const Pages& pages) {
  Pages absent;
  {
    const std::lock_guard lock(mutex_);
    for (const std::uint64_t page : pages) {
      if (!present_[page]) absent.push_back(page);
    }
    pages_read_ += absent.size();
  }
#if defined(POSIX_FADV_WILLNEED)
  for_each_run(absent, [&](std::uint64_t page, std::uint64_t n) {
    posix_fadvise(descriptor_, static_cast<off_t>(page * page_bytes_), static_cast<off_t>(n * page_bytes_),
                  POSIX_FADV_WILLNEED);
  });
#endif
}

// Only now, after they were read, do pages count as present: what another call drops meanwhile comes back with the
// read, and must be counted then.
void RowFile::keep(const Pages& pages) {
  const std::lock_guard lock(mutex_);
  for (const std::uint64_t page : pages) {
    if (present_[page]) {
      again_[page] = true;
    } else {
      present_[page] = true;
      queue_.push_back(page);
    }
  }
  Pages out;
  while (queue_.size() > most_pages_) {
    const std::uint64_t page = queue_.front();
    queue_.pop_front();
    if (again_[page]) {
      again_[page] = false;
      queue_.push_back(page);
    } else {
      present_[page] = false;
      out.push_back(page);
    }
  }
  std::sort(out.begin(), out.end());
#if defined(POSIX_FADV_DONTNEED)
  for_each_run(out, [&](std::uint64_t page, std::uint64_t n) {
    posix_fadvise(descriptor_, static_cast<off_t>(page * page_bytes_), static_cast<off_t>(n * page_bytes_),
                  POSIX_FADV_DONTNEED);
  });
#endif
}

std::uint64_t RowFile::bytes_read() const {
  const std::lock_guard lock(mutex_);
  return pages_read_ * page_bytes_;
}

std::int64_t RowFile::resident_bytes() const {
#if defined(_WIN32)
  return -1;
#else
  // A map that nobody touches brings no page into memory.
  constexpr std::uint64_t kTogether = 1 << 18;
#if defined(__linux__)
  std::vector<unsigned char> here(kTogether);
#else
  std::vector<char> here(kTogether);
#endif
  std::int64_t n_here = 0;
  for (std::uint64_t first = offset_ / page_bytes_; first < present_.size(); first += kTogether) {
    const std::uint64_t n = std::min<std::uint64_t>(kTogether, present_.size() - first);
    const auto n_bytes = static_cast<std::size_t>(n * page_bytes_);
    void* const map =
        mmap(nullptr, n_bytes, PROT_READ, MAP_SHARED, descriptor_, static_cast<off_t>(first * page_bytes_));
    if (map == MAP_FAILED) return -1;
    const bool told = mincore(map, n_bytes, here.data()) == 0;
    munmap(map, n_bytes);
    if (!told) return -1;
    n_here += std::count_if(here.begin(), here.begin() + static_cast<std::ptrdiff_t>(n),
                            [](auto state) { return (state & 1) != 0; });
  }
  return n_here * static_cast<std::int64_t>(page_bytes_);
#endif
}

}  // namespace lw
