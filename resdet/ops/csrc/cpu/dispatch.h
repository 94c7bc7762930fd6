// Number types and threads of the operators on a CPU.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels.h"

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

template <typename A>
torch::headeronly::ScalarType type_of() {
  return sizeof(A) == 8 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
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

inline std::vector<int64_t> shape_of(const torch::stable::Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return std::vector<int64_t>(sizes.begin(), sizes.end());
}

// (N, C, H, W) with the channels of a pixel side by side. Asks torch, which takes a while, only for another layout.
inline torch::stable::Tensor channels_last(const torch::stable::Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  if (sizes.size() == 4 && strides[1] == 1 && strides[3] == sizes[1] && strides[2] == strides[3] * sizes[3] &&
      strides[0] == strides[2] * sizes[2]) {
    return x;
  }
  return torch::stable::contiguous(x, torch::headeronly::MemoryFormat::ChannelsLast);
}

}  // namespace resdet
