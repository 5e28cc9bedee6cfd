#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "float_mode.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace lw {
namespace {

constexpr auto kBetweenLooks = std::chrono::milliseconds(50);

// A search is many short loops, one soon after the other: a thread looks around for this long before it sleeps, which
// would cost more than the loop itself.
constexpr auto kAwake = std::chrono::microseconds(50);

// Waits for a short while for what is likely to come soon. Gives way to whoever wants the core.
template <class Condition>
void stay_awake_until(const Condition& condition) {
  const auto begin = std::chrono::steady_clock::now();
  while (!condition() && std::chrono::steady_clock::now() - begin < kAwake) std::this_thread::yield();
}

struct Job {
  std::size_t n_pieces;
  std::size_t max_workers;
  const std::function<void(std::size_t, std::size_t)>* body;
  std::atomic<std::size_t> next_piece{0};
  std::atomic<bool> stop{false};
  // The rest is guarded by the pool's mutex.
  std::size_t workers_joined = 1;              // the caller is worker 0
  std::atomic<std::size_t> workers_inside{1};  // also read without it
  std::exception_ptr error;
};

// Set while this thread runs a body: a nested loop then runs in place instead of waiting for busy workers.
thread_local bool inside_body = false;

class Pool {
 public:
  bool run(const std::shared_ptr<Job>& job, const Interrupt& interrupt) {
    if (job->max_workers > 1) {
      {
        const std::lock_guard lock(mutex_);
        hire(job->max_workers - 1);
        jobs_.push_back(job);
        n_jobs_ = jobs_.size();
      }
      for (std::size_t i = 1; i < job->max_workers; ++i) wake_.notify_one();
    }
    bool interrupted = take_pieces(*job, 0, &interrupt);
    std::unique_lock lock(mutex_);
    withdraw(job);
    leave(*job);
    if (job->workers_inside != 0) {
      lock.unlock();
      stay_awake_until([&] { return job->workers_inside == 0; });
      lock.lock();
    }
    // The last pieces are still running elsewhere: wait for them, and keep looking for Ctrl-C.
    while (job->workers_inside != 0) {
      done_.wait_for(lock, kBetweenLooks);
      lock.unlock();
      if (!interrupted && interrupt.now()) {
        interrupted = true;
        job->stop = true;
      }
      lock.lock();
    }
    if (job->error) std::rethrow_exception(job->error);
    return !interrupted;
  }

 private:
  // Returns whether the caller was interrupted.
  bool take_pieces(Job& job, std::size_t worker, const Interrupt* interrupt) {
    const DefaultFloatMode mode;
    inside_body = true;
    bool interrupted = false;
    while (!job.stop.load(std::memory_order_relaxed)) {
      const std::size_t piece = job.next_piece.fetch_add(1, std::memory_order_relaxed);
      if (piece >= job.n_pieces) break;
      try {
        (*job.body)(piece, worker);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!job.error) job.error = std::current_exception();
        job.stop = true;
      }
      if (interrupt != nullptr && interrupt->now()) {
        interrupted = true;
        job.stop = true;
      }
    }
    inside_body = false;
    return interrupted;
  }

  // Called with the mutex held. If the system gives no more threads, those there are do the work.
  void hire(std::size_t n_workers) {
    try {
      for (; n_workers_ < n_workers; ++n_workers_) std::thread([this] { work(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  void work() {
    std::unique_lock lock(mutex_, std::defer_lock);
    for (;;) {
      stay_awake_until([this] { return n_jobs_ > 0; });
      lock.lock();
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      const std::shared_ptr<Job> job = jobs_.front();
      const std::size_t worker = job->workers_joined++;
      ++job->workers_inside;
      if (job->workers_joined >= job->max_workers) withdraw(job);
      lock.unlock();
      take_pieces(*job, worker, nullptr);
      lock.lock();
      withdraw(job);
      leave(*job);
      lock.unlock();
    }
  }

  // No further worker joins the job. Called with the mutex held.
  void withdraw(const std::shared_ptr<Job>& job) {
    for (auto it = jobs_.begin(); it != jobs_.end(); ++it) {
      if (*it == job) {
        jobs_.erase(it);
        n_jobs_ = jobs_.size();
        return;
      }
    }
  }

  // Called with the mutex held.
  void leave(Job& job) {
    if (--job.workers_inside == 0) done_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::atomic<std::size_t> n_jobs_{0};  // jobs_.size(), to be read without the mutex
  std::size_t n_workers_ = 0;
};

// The pool is never destroyed: its threads may outlive main. A forked child has none of the threads, so it gets a new
// pool, and the old one, whose mutex may be locked for ever, is left alone.
std::atomic<Pool*> current_pool{nullptr};

Pool& pool() {
  Pool* existing = current_pool.load(std::memory_order_acquire);
  if (existing != nullptr) return *existing;
#if !defined(_WIN32)
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr, std::memory_order_release); });
  (void)registered;
#endif
  Pool* const fresh = new Pool;
  if (current_pool.compare_exchange_strong(existing, fresh)) return *fresh;
  delete fresh;
  return *existing;
}

}  // namespace

bool Interrupt::now() const {
  const auto time = std::chrono::steady_clock::now();
  if (asked == nullptr || time - last_look < kBetweenLooks) return false;
  last_look = time;
  return asked(context);
}

bool parallel_for(std::size_t n_pieces, std::size_t n_threads, const Interrupt& interrupt,
                  const std::function<void(std::size_t, std::size_t)>& body) {
  if (n_pieces == 0) return true;
  if (inside_body) {
    for (std::size_t piece = 0; piece < n_pieces; ++piece) body(piece, 0);
    return true;
  }
  const auto job = std::make_shared<Job>();
  job->n_pieces = n_pieces;
  job->max_workers = std::max<std::size_t>(1, std::min(n_threads, n_pieces));
  job->body = &body;
  return pool().run(job, interrupt);
}

}  // namespace lw
