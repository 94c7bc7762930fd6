// Greedy non-maximum suppression on a GPU: checks, memory and launches around the kernels of nms_kernels.cuh.

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>

#include "common.cuh"
#include "nms_kernels.cuh"

namespace resdet {
namespace cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Positions by descending score; equal scores keep their order.
Tensor best_first(const Tensor& scores) {
  std::array<StableIValue, 4> stack{torch::stable::detail::from(scores),
                                    torch::stable::detail::from(std::optional<bool>(true)),
                                    torch::stable::detail::from(int64_t(0)), torch::stable::detail::from(true)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // the sorted scores
  return torch::stable::detail::to<Tensor>(stack[1]);
}

template <typename A>
Tensor suppress(const Tensor& boxes, const Tensor& order, const int64_t* labels, A threshold, int64_t limit,
                const Launch& launch) {
  const int64_t count = boxes.size(0), words = (count + kWord - 1) / kWord;
  const Tensor mask = torch::stable::empty({count, words}, ScalarType::Long, std::nullopt, boxes.device());
  const Tensor kept = torch::stable::empty({count + 1}, ScalarType::Long, std::nullopt, boxes.device());
  uint64_t* bits = static_cast<uint64_t*>(mask.data_ptr());
  const int64_t* places = static_cast<const int64_t*>(order.data_ptr());
  int64_t* result = static_cast<int64_t*>(kept.data_ptr());
  const dim3 grid(static_cast<unsigned>(words), static_cast<unsigned>(words));
  overlaps<<<grid, kWord, 0, launch.stream()>>>(static_cast<const A*>(boxes.data_ptr()), labels, places, count,
                                                threshold, bits);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  select<<<1, 1024, words * sizeof(uint64_t), launch.stream()>>>(bits, places, count, words, limit, result);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  int64_t found = 0;  // the size of the result: the one thing that the CPU must wait for
  STD_CUDA_CHECK(cudaMemcpyAsync(&found, result + count, sizeof(found), cudaMemcpyDeviceToHost, launch.stream()));
  STD_CUDA_CHECK(cudaStreamSynchronize(launch.stream()));
  Tensor all = kept;
  return torch::stable::narrow(all, 0, 0, found);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> labels, double threshold,
           int64_t max_output) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "The boxes must be (M, 4).");
  const int64_t count = boxes.size(0);
  STD_TORCH_CHECK(scores.dim() == 1 && scores.size(0) == count, "There must be one score for each box.");
  const Launch launch(boxes);
  launch.check(scores, "The scores");
  const int64_t limit = max_output < 0 ? count : std::min(count, max_output);
  if (limit == 0) return torch::stable::empty({0}, ScalarType::Long, std::nullopt, boxes.device());
  STD_TORCH_CHECK(count <= (int64_t(1) << 18), "These are more than 262,144 boxes.");  // 32 KiB of shared memory
  std::optional<Tensor> kinds;
  if (labels.has_value()) {
    launch.check(*labels, "The labels");
    STD_TORCH_CHECK(labels->dim() == 1 && labels->size(0) == count, "There must be one label for each box.");
    kinds = torch::stable::contiguous(torch::stable::to(*labels, ScalarType::Long));
  }
  const int64_t* label = kinds.has_value() ? static_cast<const int64_t*>(kinds->data_ptr()) : nullptr;
  const Tensor order = best_first(scores);
  const bool wide = boxes.scalar_type() == ScalarType::Double;
  const Tensor b = torch::stable::contiguous(torch::stable::to(boxes, wide ? ScalarType::Double : ScalarType::Float));
  return wide ? suppress<double>(b, order, label, threshold, limit, launch)
              : suppress<float>(b, order, label, static_cast<float>(threshold), limit, launch);
}

}  // namespace
}  // namespace cuda
}  // namespace resdet

STABLE_TORCH_LIBRARY_IMPL(resdet, CUDA, m) { m.impl("nms", TORCH_BOX(&resdet::cuda::nms)); }
