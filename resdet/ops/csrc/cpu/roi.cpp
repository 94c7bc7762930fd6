// RoI align and RoI pooling on a CPU: checks, memory and threads around the loops of kernels.h.

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <type_traits>

#include "dispatch.h"
#include "isa.h"

namespace {

using resdet::channels_last;
using resdet::new_maps;
using resdet::Pooling;
using resdet::shape_of;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Call run(T(), regions) with the type of the elements and the regions of maps of `shape`.
template <typename F>
void with_regions(ScalarType type, const Tensor& rois, const Tensor& image_index, const std::vector<int64_t>& shape,
                  const Pooling& pooling, const F& run) {
  resdet::check_regions(rois, image_index, shape, pooling);
  resdet::dispatch(type, [&](auto t, auto a) {
    const resdet::RegionTensors<decltype(a)> tensors(rois, image_index, shape, pooling);
    for (int64_t r = 0; r < tensors.regions.count; ++r) {
      const int64_t image = tensors.regions.image[r];
      STD_TORCH_CHECK(image >= 0 && image < shape[0], "An image index is not below the number of images.");
    }
    run(t, tensors.regions);
  });
}

// Every region must have a level that there is.
void check_levels(const std::optional<Tensor>& level, size_t count, const std::vector<double>& scales) {
  STD_TORCH_CHECK(scales.size() == count && (count == 1 || level.has_value()),
                  "There must be a scale for each level, and a level for each region.");
  if (!level.has_value()) return;
  STD_TORCH_CHECK(level->scalar_type() == ScalarType::Long, "There must be one int64 level for each region.");
  const Tensor own = torch::stable::contiguous(*level);
  const auto* levels = static_cast<const int64_t*>(own.data_ptr());
  for (int64_t r = 0; r < own.numel(); ++r) {
    STD_TORCH_CHECK(levels[r] >= 0 && levels[r] < static_cast<int64_t>(count), "A region is of no level.");
  }
}

// The gradient of maps of `shape`. run(T(), regions, sums, first, last) adds the share of some channels to the sums;
// every thread takes its own channels, so that sums have one order.
template <typename F>
Tensor sum_channels(const Tensor& gradient, const Tensor& rois, const Tensor& image_index,
                    const std::vector<int64_t>& shape, const Pooling& pooling, const F& run) {
  Tensor sums;
  with_regions(gradient.scalar_type(), rois, image_index, shape, pooling, [&](auto t, const auto& regions) {
    using A = decltype(regions.scale);
    const int64_t pooled = regions.pooled;
    STD_TORCH_CHECK(shape_of(gradient) == (std::vector<int64_t>{regions.count, shape[1], pooled, pooled}),
                    "The gradient must have the shape of the pooled regions.");
    sums = new_maps(gradient, shape, resdet::type_of<A>());
    torch::stable::zero_(sums);
    if (sums.numel() == 0) return;
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t grain = ((shape[1] + threads - 1) / threads + 15) / 16 * 16;  // whole vectors
    resdet::for_pieces((shape[1] + grain - 1) / grain, [&](int64_t i) {
      run(t, regions, static_cast<A*>(sums.data_ptr()), i * grain, std::min((i + 1) * grain, shape[1]));
    });
  });
  return torch::stable::to(sums, gradient.scalar_type());
}

Tensor roi_align(std::vector<Tensor> maps, const Tensor& rois, const Tensor& image_index, std::optional<Tensor> level,
                 int64_t size, std::vector<double> scales, int64_t sampling_ratio, bool aligned, int64_t stride) {
  const auto sides = resdet::sides_of(maps);
  check_levels(level, maps.size(), scales);
  Tensor out;
  for (size_t l = 0; l < maps.size(); ++l) {
    const auto shape = resdet::shape_of_level(sides, l);
    const Pooling pooling{size, scales[l], stride, sampling_ratio, aligned, level, static_cast<int64_t>(l)};
    with_regions(maps[l].scalar_type(), rois, image_index, shape, pooling, [&](auto t, const auto& regions) {
      using T = decltype(t);
      using A = decltype(regions.scale);
      const Tensor map = channels_last(maps[l]);
      if (l == 0) out = new_maps(map, {regions.count, shape[1], regions.pooled, regions.pooled}, map.scalar_type());
      const auto kernel = RESDET_BEST(align_forward<T, A>);
      torch::stable::parallel_for(0, regions.count, 1, [&](int64_t first, int64_t last) {
        std::vector<A> workspace(resdet::align_workspace(regions));
        kernel(regions, static_cast<const T*>(map.data_ptr()), static_cast<T*>(out.data_ptr()), workspace.data(), first,
               last);
      });
    });
  }
  return out;
}

// zeros, factors: of each level; offset: of each channel
Tensor roi_align_quantized(std::vector<Tensor> maps, std::vector<int64_t> zeros, std::vector<double> factors,
                           const Tensor& offset, const Tensor& rois, const Tensor& image_index,
                           std::optional<Tensor> level, int64_t size, std::vector<double> scales,
                           int64_t sampling_ratio, bool aligned, int64_t stride) {
  const auto sides = resdet::sides_of(maps);
  check_levels(level, maps.size(), scales);
  STD_TORCH_CHECK(zeros.size() == maps.size() && factors.size() == maps.size(),
                  "There must be a zero and a factor for each level.");
  STD_TORCH_CHECK(maps[0].scalar_type() == ScalarType::Byte, "The maps must be uint8.");
  STD_TORCH_CHECK(offset.dim() == 1 && offset.size(0) == sides[1], "There must be an offset for each channel.");
  const Tensor offsets = torch::stable::contiguous(torch::stable::to(offset, ScalarType::Float));
  Tensor out;
  for (size_t l = 0; l < maps.size(); ++l) {
    const auto shape = resdet::shape_of_level(sides, l);
    const Pooling pooling{size, scales[l], stride, sampling_ratio, aligned, level, static_cast<int64_t>(l)};
    with_regions(ScalarType::Float, rois, image_index, shape, pooling, [&](auto, const auto& regions) {
      using A = decltype(regions.scale);
      const Tensor map = channels_last(maps[l]);
      if (l == 0) out = new_maps(map, {regions.count, shape[1], regions.pooled, regions.pooled}, map.scalar_type());
      const auto kernel = RESDET_BEST(align_quantized<float>);
      torch::stable::parallel_for(0, regions.count, 1, [&](int64_t first, int64_t last) {
        std::vector<float> workspace(resdet::align_workspace(regions));
        if constexpr (std::is_same_v<A, float>) {
          kernel(regions, static_cast<const uint8_t*>(map.data_ptr()), static_cast<float>(zeros[l]),
                 static_cast<float>(factors[l]), static_cast<const float*>(offsets.data_ptr()),
                 static_cast<uint8_t*>(out.data_ptr()), workspace.data(), first, last);
        }
      });
    });
  }
  return out;
}

std::vector<Tensor> roi_align_backward(const Tensor& gradient, const Tensor& rois, const Tensor& image_index,
                                       std::optional<Tensor> level, std::vector<int64_t> sides, int64_t size,
                                       std::vector<double> scales, int64_t sampling_ratio, bool aligned,
                                       int64_t stride) {
  const Tensor from = channels_last(gradient);
  const auto add = [&](auto t, const auto& regions, auto* sums, int64_t first, int64_t last) {
    using T = decltype(t);
    using A = decltype(regions.scale);
    std::vector<A> workspace(resdet::align_workspace(regions));
    const auto kernel = RESDET_BEST(align_backward<T, A>);
    kernel(regions, static_cast<const T*>(from.data_ptr()), sums, workspace.data(), first, last);
  };
  check_levels(level, (sides.size() - 2) / 2, scales);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < scales.size(); ++l) {
    const Pooling pooling{size, scales[l], stride, sampling_ratio, aligned, level, static_cast<int64_t>(l)};
    gradients.push_back(sum_channels(gradient, rois, image_index, resdet::shape_of_level(sides, l), pooling, add));
  }
  return gradients;
}

std::tuple<Tensor, Tensor> roi_pool(const Tensor& features, const Tensor& rois, const Tensor& image_index,
                                    int64_t size, double scale, int64_t stride) {
  const auto shape = shape_of(features);
  Tensor out, cells;
  with_regions(features.scalar_type(), rois, image_index, shape, {size, scale, stride}, [&](auto t, const auto& regions) {
    using T = decltype(t);
    using A = decltype(regions.scale);
    const Tensor maps = channels_last(features);
    const std::vector<int64_t> pooled{regions.count, shape[1], regions.pooled, regions.pooled};
    out = new_maps(features, pooled, features.scalar_type());
    cells = new_maps(features, pooled, ScalarType::Int);
    const auto kernel = RESDET_BEST(pool_forward<T, A>);
    torch::stable::parallel_for(0, regions.count, 1, [&](int64_t first, int64_t last) {
      kernel(regions, static_cast<const T*>(maps.data_ptr()), static_cast<T*>(out.data_ptr()),
             static_cast<int32_t*>(cells.data_ptr()), first, last);
    });
  });
  return std::make_tuple(out, cells);
}

// cells: where the largest values were found, or -1
Tensor roi_pool_backward(const Tensor& gradient, const Tensor& cells, const Tensor& rois, const Tensor& image_index,
                         std::vector<int64_t> shape, int64_t size, double scale, int64_t stride) {
  resdet::check_cells(cells, gradient);
  const Tensor from = channels_last(gradient), chosen = channels_last(cells);
  std::atomic<bool> known{true};
  const auto add = [&](auto t, const auto& regions, auto* sums, int64_t first, int64_t last) {
    using T = decltype(t);
    using A = decltype(regions.scale);
    const auto kernel = RESDET_BEST(pool_backward<T, A>);
    const T* gradients = static_cast<const T*>(from.data_ptr());
    if (!kernel(regions, gradients, static_cast<const int32_t*>(chosen.data_ptr()), sums, first, last)) known = false;
  };
  const Tensor result = sum_channels(gradient, rois, image_index, shape, {size, scale, stride}, add);
  STD_TORCH_CHECK(known, "A cell is not on the feature map.");
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roi_align));
  m.impl("roi_align_quantized", TORCH_BOX(&roi_align_quantized));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward));
  m.impl("roi_pool", TORCH_BOX(&roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&roi_pool_backward));
}
