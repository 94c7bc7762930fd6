// Types, the current stream and blocks of the operators on a GPU.

#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#include "../tensors.h"

namespace resdet {
namespace cuda {

// Call `run(T(), A())` with the type of the elements and the type of their sums.
template <typename F>
void dispatch(torch::headeronly::ScalarType type, const F& run) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float:
      return run(float(), float());
    case ScalarType::Double:
      return run(double(), double());
    case ScalarType::Half:
      return run(c10::Half(), float());
    case ScalarType::BFloat16:
      return run(c10::BFloat16(), float());
    default:
      STD_TORCH_CHECK(false, "resdet's operators take float16, bfloat16, float32 or float64 on a GPU.");
  }
}

// torch's current stream on the tensor's device, which becomes the current one as long as this lives.
class Launch {
 public:
  explicit Launch(const torch::stable::Tensor& tensor)
      : guard_(tensor.get_device_index()), device_(tensor.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

  // Refuse a tensor elsewhere: its kernels would read another memory.
  void check(const torch::stable::Tensor& tensor, const char* name) const {
    STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == device_, name,
                    " must be on the same GPU as the tensor that comes first.");
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  int32_t device_;
  cudaStream_t stream_;
};

inline unsigned blocks(int64_t count) { return static_cast<unsigned>(std::min<int64_t>(count, 1 << 20)); }

}  // namespace cuda
}  // namespace resdet
