// Greedy non-maximum suppression on a GPU: which boxes overlap, all at once; then one block walks down the scores.

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>

#include "common.cuh"

namespace resdet {
namespace cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kWord = 64;  // boxes in a word of the mask

template <typename A>
__device__ bool overlap(const A* a, const A* b, A threshold) {
  const A left = a[0] > b[0] ? a[0] : b[0], top = a[1] > b[1] ? a[1] : b[1];
  const A right = a[2] < b[2] ? a[2] : b[2], bottom = a[3] < b[3] ? a[3] : b[3];
  const A width = right - left, height = bottom - top;
  const A inter = (width > 0 ? width : A(0)) * (height > 0 ? height : A(0));
  return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter) > threshold;
}

// mask (M, words): bit j of word w in row i says that the box at place i removes the one at place 64·w + j.
template <typename A>
__global__ void overlaps(const A* boxes, const int64_t* labels, const int64_t* order, int64_t count, A threshold,
                         uint64_t* mask) {
  const int64_t word = blockIdx.x, block = blockIdx.y, words = gridDim.x;
  if (word < block) return;
  __shared__ A others[kWord][4];
  __shared__ int64_t kinds[kWord];
  const int64_t column = word * kWord + threadIdx.x;
  if (column < count) {
    for (int k = 0; k < 4; ++k) others[threadIdx.x][k] = boxes[4 * order[column] + k];
    kinds[threadIdx.x] = labels ? labels[order[column]] : 0;
  }
  __syncthreads();
  const int64_t row = block * kWord + threadIdx.x;
  if (row >= count) return;
  A own[4];
  for (int k = 0; k < 4; ++k) own[k] = boxes[4 * order[row] + k];
  const int64_t kind = labels ? labels[order[row]] : 0;
  uint64_t bits = 0;
  for (int j = 0; j < kWord; ++j) {
    const int64_t place = word * kWord + j;
    if (place <= row || place >= count || kinds[j] != kind) continue;
    if (overlap(own, others[j], threshold)) bits |= uint64_t(1) << j;
  }
  mask[row * words + word] = bits;
}

// One block: kept (M,) gets the boxes that stay, best first, and kept[M] their number.
__global__ void select(const uint64_t* mask, const int64_t* order, int64_t count, int64_t words, int64_t limit,
                       int64_t* kept) {
  extern __shared__ uint64_t removed[];
  __shared__ uint64_t diagonal[kWord], staying;
  __shared__ int64_t found;
  for (int64_t w = threadIdx.x; w < words; w += blockDim.x) removed[w] = 0;
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  for (int64_t word = 0; word < words; ++word) {
    const int64_t first = word * kWord;
    if (threadIdx.x < kWord && first + threadIdx.x < count) {
      diagonal[threadIdx.x] = mask[(first + threadIdx.x) * words + word];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint64_t gone = removed[word], stay = 0;
      for (int j = 0; j < kWord && first + j < count && found < limit; ++j) {
        if (gone >> j & 1) continue;
        stay |= uint64_t(1) << j;
        gone |= diagonal[j];
        kept[found++] = order[first + j];
      }
      staying = stay;
    }
    __syncthreads();
    if (found >= limit) break;
    for (int64_t w = word + 1 + threadIdx.x; w < words; w += blockDim.x) {
      uint64_t gone = removed[w];
      for (uint64_t left = staying; left; left &= left - 1) gone |= mask[(first + __ffsll(left) - 1) * words + w];
      removed[w] = gone;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) kept[count] = found;
}

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
  STD_TORCH_CHECK(scores.is_cuda(), "The scores must be on the boxes' GPU.");
  const int64_t limit = max_output < 0 ? count : std::min(count, max_output);
  if (limit == 0) return torch::stable::empty({0}, ScalarType::Long, std::nullopt, boxes.device());
  STD_TORCH_CHECK(count <= (int64_t(1) << 18), "These are more than 262,144 boxes.");  // 32 KiB of shared memory
  const Launch launch(boxes);
  std::optional<Tensor> kinds;
  if (labels.has_value()) {
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
