// The kernels of greedy non-maximum suppression on a GPU: which boxes overlap, all at once; then one block walks down the
// scores. Nothing here knows of torch: tests/cuda_on_cpu.cpp runs it on a CPU.

#pragma once

#include <cstdint>

#ifndef RESDET_DYNAMIC_SHARED  // memory whose size the launch states
#define RESDET_DYNAMIC_SHARED extern __shared__
#endif

namespace resdet {
namespace cuda {
namespace {

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
  RESDET_DYNAMIC_SHARED uint64_t removed[];
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

}  // namespace
}  // namespace cuda
}  // namespace resdet
