// RoI align and RoI pooling on a GPU: checks, memory and launches around the kernels of roi_kernels.cuh.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common.cuh"
#include "roi_kernels.cuh"

namespace resdet {
namespace cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
  launch.check(rois, "The regions");
  launch.check(image_index, "The image index");
  Work<A> work(rois, image_index, shape, pooling);
  Tables<A>& tables = work.tables;
  const int64_t count = work.regions.count, entries = 2 * count * work.regions.pooled;
  tables.row = row_of_weights(std::max(shape[2], shape[3]), work.regions.pooled);
  work.integers = torch::stable::empty({3 * entries + 4 * count}, ScalarType::Int, std::nullopt, rois.device());
  work.weights =
      torch::stable::empty({kAlign ? 2 * count * tables.row : 0}, type_of<A>(), std::nullopt, rois.device());
  tables.low = static_cast<int32_t*>(work.integers.data_ptr());
  tables.count = tables.low + entries;
  tables.start = tables.count + entries;
  tables.extent = tables.start + entries;
  tables.weights = static_cast<A*>(work.weights.data_ptr());
  if (count) {
    fill_tables<kAlign><<<(2 * count + 127) / 128, 128, 0, launch.stream()>>>(work.regions, shape[0], tables);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return work;
}

// Whether packs of so many bytes may be read from a tensor, which may be a view that starts anywhere.
bool starts_at_multiple(const Tensor& tensor, size_t bytes) {
  return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % bytes == 0;
}

// Call run(std::integral_constant) with as many channels as a thread reads at once, from `maps` and, if there are any,
// from their `cells`.
template <typename T, typename F>
void with_pack(const Tensor& maps, const std::optional<Tensor>& cells, const F& run) {
  constexpr int kMost = 16 / sizeof(T) > 4 ? 4 : 16 / sizeof(T);
  const bool aligned = starts_at_multiple(maps, sizeof(T) * kMost) &&
                       (!cells.has_value() || starts_at_multiple(*cells, sizeof(int32_t) * kMost));
  if (aligned && maps.size(1) % kMost == 0) {
    run(std::integral_constant<int, kMost>());
  } else {
    run(std::integral_constant<int, 1>());
  }
}

void check_levels(const std::optional<Tensor>& level, size_t count, const std::vector<double>& scales,
                  const Launch& launch) {
  STD_TORCH_CHECK(scales.size() == count && (count == 1 || level.has_value()),
                  "There must be a scale for each level, and a level for each region.");
  if (level.has_value()) launch.check(*level, "The levels of the regions");
}

int threads(int64_t packs) { return static_cast<int>(std::min<int64_t>(kThreads, (packs + 31) / 32 * 32)); }

Tensor roi_align(std::vector<Tensor> maps, const Tensor& rois, const Tensor& image_index, std::optional<Tensor> level,
                 int64_t size, std::vector<double> scales, int64_t sampling_ratio, bool aligned, int64_t stride) {
  const auto sides = sides_of(maps);
  const Launch launch(maps[0]);
  check_levels(level, maps.size(), scales, launch);
  Tensor pooled;
  for (size_t l = 0; l < maps.size(); ++l) {
    launch.check(maps[l], "The levels");
    const auto shape = shape_of_level(sides, l);
    const Pooling pooling{size, scales[l], stride, sampling_ratio, aligned, level, static_cast<int64_t>(l)};
    const Tensor map = channels_last(maps[l]);
    dispatch(map.scalar_type(), [&](auto t, auto a) {
      using T = decltype(t);
      const auto work = prepare<true, decltype(a)>(rois, image_index, shape, pooling, launch);
      const int64_t side = work.regions.pooled, bins = work.regions.count * side * side;
      if (l == 0) {
        pooled = new_maps(map, {work.regions.count, shape[1], side, side}, map.scalar_type());
        if (level.has_value()) torch::stable::zero_(pooled);  // a region of a level that there is not gives zeros
      }
      if (pooled.numel() == 0) return;
      with_pack<T>(map, std::nullopt, [&](auto count) {
        align_forward<count.value><<<blocks(bins), threads(shape[1] / count.value), 0, launch.stream()>>>(
            work.regions, bins, work.tables, static_cast<const T*>(map.data_ptr()),
            static_cast<T*>(pooled.data_ptr()));
      });
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
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
    with_pack<T>(from, cells, [&](auto pack) {
      backward<kAlign, pack.value><<<blocks(count), kThreads, 0, launch.stream()>>>(
          work.regions, count, work.tables, static_cast<const T*>(from.data_ptr()), chosen,
          static_cast<T*>(result.data_ptr()));
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return result;
}

std::vector<Tensor> roi_align_backward(const Tensor& gradient, const Tensor& rois, const Tensor& image_index,
                                       std::optional<Tensor> level, std::vector<int64_t> sides, int64_t size,
                                       std::vector<double> scales, int64_t sampling_ratio, bool aligned,
                                       int64_t stride) {
  check_levels(level, (sides.size() - 2) / 2, scales, Launch(gradient));
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < scales.size(); ++l) {
    const Pooling pooling{size, scales[l], stride, sampling_ratio, aligned, level, static_cast<int64_t>(l)};
    gradients.push_back(
        gradient_of_maps<true>(gradient, std::nullopt, rois, image_index, shape_of_level(sides, l), pooling));
  }
  return gradients;
}

Tensor roi_pool_backward(const Tensor& gradient, const Tensor& cells, const Tensor& rois, const Tensor& image_index,
                         std::vector<int64_t> shape, int64_t size, double scale, int64_t stride) {
  check_cells(cells, gradient);
  Launch(gradient).check(cells, "The cells");
  return gradient_of_maps<false>(gradient, channels_last(cells), rois, image_index, shape, {size, scale, stride});
}

// Whether these kernels were compiled for a GPU.
bool runs_on_gpu(int64_t index) {
  const torch::stable::accelerator::DeviceGuard guard(static_cast<torch::stable::accelerator::DeviceIndex>(index));
  cudaFuncAttributes attributes;
  const bool runs = cudaFuncGetAttributes(&attributes, fill_tables<true, float>) == cudaSuccess;
  if (!runs) cudaGetLastError();  // or the next launch, of anybody's kernel, would report it
  return runs;
}

}  // namespace
}  // namespace cuda
}  // namespace resdet

STABLE_TORCH_LIBRARY_IMPL(resdet, CompositeExplicitAutograd, m) {
  m.impl("runs_on_gpu", TORCH_BOX(&resdet::cuda::runs_on_gpu));
}
STABLE_TORCH_LIBRARY_IMPL(resdet, CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&resdet::cuda::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&resdet::cuda::roi_align_backward));
  m.impl("roi_pool", TORCH_BOX(&resdet::cuda::roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&resdet::cuda::roi_pool_backward));
}
