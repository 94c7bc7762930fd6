// Number types and threads of the operators on a CPU.

#pragma once

#include <algorithm>
#include <atomic>

#include "../tensors.h"

namespace resdet {

// Call `run(T(), A())` with the type of the elements and the type of their sums.
template <typename F>
void dispatch(torch::headeronly::ScalarType type, const F& run) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float:
      return run(float(), float());
    case ScalarType::Double:
      return run(double(), double());
    case ScalarType::BFloat16:
      return run(bfloat16(), float());
    default:
      STD_TORCH_CHECK(false, "resdet's operators take float32, float64 or bfloat16 on a CPU.");
  }
}

// Call run(i) for all i below count, on all threads. Each takes the next piece when it is done with one, since the
// processors that we get are not equally fast.
template <typename F>
void for_pieces(int64_t count, const F& run) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1)) < count;) run(i);
  });
}

}  // namespace resdet
