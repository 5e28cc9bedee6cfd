// The floating-point mode that every answer is computed in, whatever mode the caller is in.
#pragma once

#include <cfenv>

namespace lw {

// Other libraries switch a thread to flushing small numbers to zero, or to another rounding. Our own threads never
// hear of it, so that answers would differ from thread to thread: drivers compute in the default mode instead.
class DefaultFloatMode {
 public:
  DefaultFloatMode() {
    std::fegetenv(&callers_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatMode() { std::fesetenv(&callers_); }
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
  std::fenv_t callers_;
};

}  // namespace lw
