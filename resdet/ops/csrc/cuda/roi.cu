// RoI align and RoI pooling on a GPU.
//
// Maps and pooled regions are channels-last, and the threads of a block take the channels of a pixel: all reads lie side
// by side. Going back, each cell of the map collects what belongs to it from all regions in their order: no atomic
// additions, hence the same sums every time.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common.cuh"

namespace resdet {
namespace cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#define RESDET_FUNCTION __device__ inline
#include "../geometry.inl"

constexpr int kThreads = 256;

// kCount numbers that are read and written at once.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

// Of each region and axis (0: y, 1: x), the cells of each bin: (R, 2, P) first one and number, (R, 2, P, L) weights,
// L being the longer side of the map. And (R, 2, 2): the cells [first, last) of all bins.
template <typename A>
struct Tables {
  int32_t *low, *count, *extent;
  A* weights;
  int64_t length;
};

template <bool kAlign, typename A>
__global__ void fill_tables(Regions<A> regions, int64_t images, Tables<A> tables) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= 2 * regions.count) return;
  const int64_t r = i / 2, axis = i % 2, length = axis ? regions.width : regions.height;
  const Cells<A> cells = kAlign ? align_cells(regions, r) : pool_cells(regions, r);
  const A start = axis ? cells.start_x : cells.start_y, size = axis ? cells.size_x : cells.size_y;
  int64_t samples[2] = {0, 0};
  bool any = regions.image[r] >= 0 && regions.image[r] < images;
  any = any && (kAlign ? align_samples(regions, cells, samples[0], samples[1]) : cells.finite);
  int64_t first = length, last = 0;
  for (int64_t p = 0; p < regions.pooled; ++p) {
    const int64_t at = i * regions.pooled + p, bin = p * regions.stride;
    int64_t low = 0, count = 0;
    if (any && kAlign) {
      fill_bin(tables.weights + at * tables.length, low, count, start, size / regions.bins, bin, samples[axis],
               length);
    } else if (any) {
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
    const int32_t low_y = tables.low[y], count_y = tables.count[y], low_x = tables.low[x], count_x = tables.count[x];
    const A *weight_y = tables.weights + y * tables.length, *weight_x = tables.weights + x * tables.length;
    const Values* map = reinterpret_cast<const Values*>(maps) +
                        (count_y && count_x ? regions.image[r] : 0) * regions.height * regions.width * packs;
    for (int64_t c = threadIdx.x; c < packs; c += blockDim.x) {
      A sums[kCount] = {};
      for (int32_t i = 0; i < count_y; ++i) {
        const Values* row = map + ((low_y + i) * regions.width + low_x) * packs + c;
        for (int32_t j = 0; j < count_x; ++j) {
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
          if (value > (chosen < 0 ? -A(INFINITY) : best)) {
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
                const A weight = tables.weights[at_y * tables.length + i] * tables.weights[at_x * tables.length + j];
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

// Regions and their tables, and the memory that they point to.
template <typename A>
struct Work : RegionTensors<A> {
  Tensor integers, weights;
  Tables<A> tables;

  using RegionTensors<A>::RegionTensors;
};

template <bool kAlign, typename A>
Work<A> prepare(const Tensor& rois, const Tensor& image_index, const std::vector<int64_t>& shape,
                const Pooling& pooling, const Launch& launch) {
  check_regions(rois, image_index, shape, pooling);
  STD_TORCH_CHECK(rois.is_cuda() && image_index.is_cuda(), "Regions and image index must be on the features' GPU.");
  Work<A> work(rois, image_index, shape, pooling);
  Tables<A>& tables = work.tables;
  const int64_t count = work.regions.count, entries = 2 * count * work.regions.pooled;
  tables.length = std::max(shape[2], shape[3]);
  work.integers = torch::stable::empty({2 * entries + 4 * count}, ScalarType::Int, std::nullopt, rois.device());
  work.weights =
      torch::stable::empty({kAlign ? entries * tables.length : 0}, type_of<A>(), std::nullopt, rois.device());
  tables.low = static_cast<int32_t*>(work.integers.data_ptr());
  tables.count = tables.low + entries;
  tables.extent = tables.count + entries;
  tables.weights = static_cast<A*>(work.weights.data_ptr());
  if (count) {
    fill_tables<kAlign><<<(2 * count + 127) / 128, 128, 0, launch.stream()>>>(work.regions, shape[0], tables);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return work;
}

// Call run(std::integral_constant) with as many channels as a thread reads at once.
template <typename T, typename F>
void with_pack(int64_t channels, const F& run) {
  constexpr int kMost = 16 / sizeof(T) > 4 ? 4 : 16 / sizeof(T);
  if (channels % kMost == 0) {
    run(std::integral_constant<int, kMost>());
  } else {
    run(std::integral_constant<int, 1>());
  }
}

int threads(int64_t packs) { return static_cast<int>(std::min<int64_t>(kThreads, (packs + 31) / 32 * 32)); }

Tensor roi_align(const Tensor& features, const Tensor& rois, const Tensor& image_index, int64_t size, double scale,
                 int64_t sampling_ratio, bool aligned, int64_t stride) {
  const Launch launch(features);
  const auto shape = shape_of(features);
  const Pooling pooling{size, scale, stride, sampling_ratio, aligned};
  const Tensor maps = channels_last(features);
  Tensor pooled;
  dispatch(features.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    const auto work = prepare<true, decltype(a)>(rois, image_index, shape, pooling, launch);
    const int64_t side = work.regions.pooled, bins = work.regions.count * side * side;
    pooled = new_maps(features, {work.regions.count, shape[1], side, side}, features.scalar_type());
    if (pooled.numel() == 0) return;
    with_pack<T>(shape[1], [&](auto count) {
      align_forward<count.value><<<blocks(bins), threads(shape[1] / count.value), 0, launch.stream()>>>(
          work.regions, bins, work.tables, static_cast<const T*>(maps.data_ptr()), static_cast<T*>(pooled.data_ptr()));
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return pooled;
}

std::tuple<Tensor, Tensor> roi_pool(const Tensor& features, const Tensor& rois, const Tensor& image_index,
                                    int64_t size, double scale, int64_t stride) {
  const Launch launch(features);
  const auto shape = shape_of(features);
  const Tensor maps = channels_last(features);
  Tensor pooled, cells;
  dispatch(features.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    const auto work = prepare<false, decltype(a)>(rois, image_index, shape, {size, scale, stride}, launch);
    const int64_t side = work.regions.pooled, bins = work.regions.count * side * side;
    pooled = new_maps(features, {work.regions.count, shape[1], side, side}, features.scalar_type());
    cells = new_maps(features, {work.regions.count, shape[1], side, side}, ScalarType::Int);
    if (pooled.numel() == 0) return;
    pool_forward<<<blocks(bins), threads(shape[1]), 0, launch.stream()>>>(
        work.regions, bins, work.tables, static_cast<const T*>(maps.data_ptr()), static_cast<T*>(pooled.data_ptr()),
        static_cast<int32_t*>(cells.data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return std::make_tuple(pooled, cells);
}

// The gradient of maps of `shape`; `cells` are those of RoI pooling.
template <bool kAlign>
Tensor gradient_of_maps(const Tensor& gradient, const std::optional<Tensor>& cells, const Tensor& rois,
                        const Tensor& image_index, const std::vector<int64_t>& shape, const Pooling& pooling) {
  const Launch launch(gradient);
  const Tensor from = channels_last(gradient);
  Tensor result = new_maps(gradient, shape, gradient.scalar_type());
  if (result.numel() == 0) return result;
  dispatch(gradient.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    const auto work = prepare<kAlign, decltype(a)>(rois, image_index, shape, pooling, launch);
    const int64_t side = work.regions.pooled, count = shape[0] * shape[2] * shape[3];
    STD_TORCH_CHECK(shape_of(gradient) == (std::vector<int64_t>{work.regions.count, shape[1], side, side}),
                    "The gradient must have the shape of the pooled regions.");
    const int32_t* chosen = cells.has_value() ? static_cast<const int32_t*>(cells->data_ptr()) : nullptr;
    with_pack<T>(shape[1], [&](auto pack) {
      backward<kAlign, pack.value><<<blocks(count), kThreads, 0, launch.stream()>>>(
          work.regions, count, work.tables, static_cast<const T*>(from.data_ptr()), chosen,
          static_cast<T*>(result.data_ptr()));
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return result;
}

Tensor roi_align_backward(const Tensor& gradient, const Tensor& rois, const Tensor& image_index,
                          std::vector<int64_t> shape, int64_t size, double scale, int64_t sampling_ratio, bool aligned,
                          int64_t stride) {
  return gradient_of_maps<true>(gradient, std::nullopt, rois, image_index, shape,
                                {size, scale, stride, sampling_ratio, aligned});
}

Tensor roi_pool_backward(const Tensor& gradient, const Tensor& cells, const Tensor& rois, const Tensor& image_index,
                         std::vector<int64_t> shape, int64_t size, double scale, int64_t stride) {
  STD_TORCH_CHECK(shape_of(gradient) == shape_of(cells), "Each gradient must have its cell.");
  return gradient_of_maps<false>(gradient, channels_last(cells), rois, image_index, shape, {size, scale, stride});
}

}  // namespace
}  // namespace cuda
}  // namespace resdet

STABLE_TORCH_LIBRARY_IMPL(resdet, CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&resdet::cuda::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&resdet::cuda::roi_align_backward));
  m.impl("roi_pool", TORCH_BOX(&resdet::cuda::roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&resdet::cuda::roi_pool_backward));
}
