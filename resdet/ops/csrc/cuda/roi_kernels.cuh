// The kernels of RoI align and RoI pooling on a GPU.
//
// Maps and pooled regions are channels-last, and the threads of a block take the channels of a pixel: all reads lie side
// by side. Going back, each cell of the map collects what belongs to it from all regions in their order: no atomic
// additions, hence the same sums every time. Nothing here knows of torch: tests/cuda_on_cpu.cpp runs it on a CPU.

#pragma once

#include <cmath>

#include "../cpu/kernels.h"

namespace resdet {
namespace cuda {
namespace {

#define RESDET_FUNCTION __device__ inline
#include "../geometry.inl"

constexpr int kThreads = 256;

// kCount numbers that are read and written at once.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

// Of each region and axis (0: y, 1: x), the cells of each bin: (R, 2, P) first one, number, and where its weights start
// in `weights` (R, 2, row). And (R, 2, 2): the cells [first, last) of all bins. Bins lie side by side, so that a row has
// room for little more than the cells of the map's longer side.
template <typename A>
struct Tables {
  int32_t *low, *count, *start, *extent;
  A* weights;
  int64_t row;
};

// Elements of a row: the cells of the map, those that neighbouring bins share, and room for one more bin, so that
// rounding, whatever the box, writes nowhere else.
inline int64_t row_of_weights(int64_t length, int64_t pooled) { return 2 * length + 4 * pooled + 4; }

template <bool kAlign, typename A>
__global__ void fill_tables(Regions<A> regions, int64_t images, Tables<A> tables) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= 2 * regions.count) return;
  const int64_t r = i / 2, axis = i % 2, length = axis ? regions.width : regions.height;
  const Cells<A> cells = kAlign ? align_cells(regions, r) : pool_cells(regions, r);
  const A start = axis ? cells.start_x : cells.start_y, size = axis ? cells.size_x : cells.size_y;
  int64_t samples[2] = {0, 0};
  bool any = regions.image[r] >= 0 && regions.image[r] < images;
  any = any && is_of_level(regions, r);
  any = any && (kAlign ? align_samples(regions, cells, samples[0], samples[1]) : cells.finite);
  int64_t first = length, last = 0, used = 0;
  for (int64_t p = 0; p < regions.pooled; ++p) {
    const int64_t at = i * regions.pooled + p, bin = p * regions.stride;
    int64_t low = 0, count = 0;
    tables.start[at] = static_cast<int32_t>(used);
    if (any && kAlign && used + length <= tables.row) {
      fill_bin(tables.weights + i * tables.row + used, low, count, start, size / regions.bins, bin, samples[axis],
               length);
      used += count;
    } else if (any && !kAlign) {
      int64_t high;
      pool_bin(start, size, regions.bins, bin, length, low, high);
      count = high > low ? high - low : 0;
    }
    tables.low[at] = static_cast<int32_t>(low);
    tables.count[at] = static_cast<int32_t>(count);
    if (count > 0) {
      first = at_most(first, low);
      last = at_least(last, low + count);
    }
  }
  tables.extent[2 * i] = static_cast<int32_t>(first);
  tables.extent[2 * i + 1] = static_cast<int32_t>(last);
}

template <int kCount, typename T, typename A>
__global__ void align_forward(Regions<A> regions, int64_t bins, Tables<A> tables, const T* maps, T* pooled) {
  using Values = Pack<T, kCount>;
  const int64_t packs = regions.channels / kCount, side = regions.pooled;
  for (int64_t b = blockIdx.x; b < bins; b += gridDim.x) {
    const int64_t r = b / (side * side), y = 2 * r * side + b / side % side, x = (2 * r + 1) * side + b % side;
    if (!is_of_level(regions, r)) continue;
    const int32_t low_y = tables.low[y], count_y = tables.count[y], low_x = tables.low[x], count_x = tables.count[x];
    const A* weight_y = tables.weights + 2 * r * tables.row + tables.start[y];
    const A* weight_x = tables.weights + (2 * r + 1) * tables.row + tables.start[x];
    const Values* map = reinterpret_cast<const Values*>(maps) +
                        (count_y && count_x ? regions.image[r] : 0) * regions.height * regions.width * packs;
    for (int64_t c = threadIdx.x; c < packs; c += blockDim.x) {
      A sums[kCount] = {};
      for (int32_t i = 0; i < count_y; ++i) {
        if (weight_y[i] < 0) continue;
        const Values* row = map + ((low_y + i) * regions.width + low_x) * packs + c;
        for (int32_t j = 0; j < count_x; ++j) {
          if (weight_x[j] < 0) continue;
          const A weight = weight_y[i] * weight_x[j];
          const Values cell = row[j * packs];
          for (int k = 0; k < kCount; ++k) sums[k] += weight * static_cast<A>(cell.values[k]);
        }
      }
      Values result;
      for (int k = 0; k < kCount; ++k) result.values[k] = static_cast<T>(sums[k]);
      reinterpret_cast<Values*>(pooled)[b * packs + c] = result;
    }
  }
}

template <typename T, typename A>
__global__ void pool_forward(Regions<A> regions, int64_t bins, Tables<A> tables, const T* maps, T* pooled,
                             int32_t* cells) {
  const int64_t channels = regions.channels, side = regions.pooled;
  for (int64_t b = blockIdx.x; b < bins; b += gridDim.x) {
    const int64_t r = b / (side * side), y = 2 * r * side + b / side % side, x = (2 * r + 1) * side + b % side;
    const int32_t low_y = tables.low[y], count_y = tables.count[y], low_x = tables.low[x], count_x = tables.count[x];
    const T* map = maps + (count_y && count_x ? regions.image[r] : 0) * regions.height * regions.width * channels;
    for (int64_t c = threadIdx.x; c < channels; c += blockDim.x) {
      A best = 0;
      int32_t chosen = -1;
      for (int32_t i = 0; i < count_y; ++i) {
        for (int32_t j = 0; j < count_x; ++j) {
          const int64_t cell = (low_y + i) * regions.width + low_x + j;
          const A value = static_cast<A>(map[cell * channels + c]);
          if (chosen < 0 || value > best || value != value) {  // NaN is larger than any number
            best = value;
            chosen = static_cast<int32_t>(cell);
          }
        }
      }
      pooled[b * channels + c] = static_cast<T>(best);
      cells[b * channels + c] = chosen;
    }
  }
}

// One block a cell of the maps. The threads look for the regions that hold it, many at a time, and go through those.
template <bool kAlign, int kCount, typename T, typename A>
__global__ void backward(Regions<A> regions, int64_t cells_count, Tables<A> tables, const T* gradient,
                         const int32_t* chosen, T* maps_gradient) {
  using Values = Pack<T, kCount>;
  using Choices = Pack<int32_t, kCount>;
  __shared__ int held[kThreads];
  const int64_t packs = regions.channels / kCount, side = regions.pooled;
  for (int64_t cell = blockIdx.x; cell < cells_count; cell += gridDim.x) {
    const int64_t image = cell / (regions.height * regions.width), place = cell % (regions.height * regions.width);
    const int64_t y = place / regions.width, x = place % regions.width;
    for (int64_t first = 0; first < packs; first += blockDim.x) {
      const int64_t c = first + threadIdx.x;
      A sums[kCount] = {};
      for (int64_t start = 0; start < regions.count; start += kThreads) {
        const int64_t mine = start + threadIdx.x;
        const int32_t* extent = tables.extent + 4 * mine;
        __syncthreads();
        held[threadIdx.x] = mine < regions.count && regions.image[mine] == image && y >= extent[0] && y < extent[1] &&
                            x >= extent[2] && x < extent[3];
        if (!__syncthreads_or(held[threadIdx.x]) || c >= packs) continue;
        for (int64_t r = start; r < at_most(start + kThreads, regions.count); ++r) {
          if (!held[r - start]) continue;
          for (int64_t py = 0; py < side; ++py) {
            const int64_t at_y = 2 * r * side + py, i = y - tables.low[at_y];
            if (i < 0 || i >= tables.count[at_y]) continue;
            for (int64_t px = 0; px < side; ++px) {
              const int64_t at_x = (2 * r + 1) * side + px, j = x - tables.low[at_x];
              if (j < 0 || j >= tables.count[at_x]) continue;
              const int64_t bin = ((r * side + py) * side + px) * packs + c;
              const Values from = reinterpret_cast<const Values*>(gradient)[bin];
              if (kAlign) {
                const A weight_y = tables.weights[2 * r * tables.row + tables.start[at_y] + i];
                const A weight_x = tables.weights[(2 * r + 1) * tables.row + tables.start[at_x] + j];
                if (weight_y < 0 || weight_x < 0) continue;
                const A weight = weight_y * weight_x;
                for (int k = 0; k < kCount; ++k) sums[k] += weight * static_cast<A>(from.values[k]);
              } else {
                const Choices best = reinterpret_cast<const Choices*>(chosen)[bin];
                for (int k = 0; k < kCount; ++k) {
                  sums[k] += best.values[k] == place ? static_cast<A>(from.values[k]) : A(0);
                }
              }
            }
          }
        }
      }
      if (c >= packs) continue;
      Values result;
      for (int k = 0; k < kCount; ++k) result.values[k] = static_cast<T>(sums[k]);
      reinterpret_cast<Values*>(maps_gradient)[cell * packs + c] = result;
    }
  }
}

}  // namespace
}  // namespace cuda
}  // namespace resdet
