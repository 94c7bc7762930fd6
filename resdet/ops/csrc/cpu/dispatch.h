// Number types of the operators on a CPU.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

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

inline std::vector<int64_t> shape_of(const torch::stable::Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return std::vector<int64_t>(sizes.begin(), sizes.end());
}

}  // namespace resdet
