// Tensors of the operators on every device: shapes, memory, regions.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "cpu/kernels.h"

namespace resdet {

template <typename A>
torch::headeronly::ScalarType type_of() {
  return sizeof(A) == 8 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
}

inline std::vector<int64_t> shape_of(const torch::stable::Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return std::vector<int64_t>(sizes.begin(), sizes.end());
}

// Maps (N, C, H, W) of several levels, whose shapes are told as sides: N, C, and H and W of each.
inline std::vector<int64_t> sides_of(const std::vector<torch::stable::Tensor>& maps) {
  STD_TORCH_CHECK(!maps.empty(), "There must be a map.");
  std::vector<int64_t> sides;
  for (const auto& map : maps) {
    STD_TORCH_CHECK(map.dim() == 4, "The features must be (N, C, H, W).");
    if (sides.empty()) sides = {map.size(0), map.size(1)};
    STD_TORCH_CHECK(map.size(0) == sides[0] && map.size(1) == sides[1] && map.scalar_type() == maps[0].scalar_type(),
                    "The levels must have the same images, channels and number type.");
    sides.push_back(map.size(2));
    sides.push_back(map.size(3));
  }
  return sides;
}

inline std::vector<int64_t> shape_of_level(const std::vector<int64_t>& sides, size_t level) {
  return {sides[0], sides[1], sides[2 + 2 * level], sides[3 + 2 * level]};
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

// Memory for (N, C, H, W) on the device of `like`, channels-last.
inline torch::stable::Tensor new_maps(const torch::stable::Tensor& like, const std::vector<int64_t>& shape,
                                      torch::headeronly::ScalarType type) {
  return torch::stable::empty(shape, type, std::nullopt, like.device(), std::nullopt,
                              torch::headeronly::MemoryFormat::ChannelsLast);
}

// How regions are pooled: the arguments of resdet/ops/__init__.py; RoI pooling leaves the last ones as they are.
struct __attribute__((visibility("hidden"))) Pooling {  // as torch's tensors are
  int64_t size;
  double scale;
  int64_t stride;
  int64_t sampling_ratio = 0;
  bool aligned = false;
  std::optional<torch::stable::Tensor> level = std::nullopt;  // of each region
  int64_t own_level = 0;                                      // the maps'
};

inline void check_regions(const torch::stable::Tensor& rois, const torch::stable::Tensor& image_index,
                          const std::vector<int64_t>& shape, const Pooling& pooling) {
  STD_TORCH_CHECK(shape.size() == 4, "The features must be (N, C, H, W).");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 4, "The regions must be (R, 4).");
  STD_TORCH_CHECK(image_index.dim() == 1 && image_index.size(0) == rois.size(0),
                  "There must be one image index for each region.");
  STD_TORCH_CHECK(image_index.scalar_type() == torch::headeronly::ScalarType::Long, "The image index must be int64.");
  STD_TORCH_CHECK(!pooling.level.has_value() ||
                      (pooling.level->dim() == 1 && pooling.level->size(0) == rois.size(0) &&
                       pooling.level->scalar_type() == torch::headeronly::ScalarType::Long),
                  "There must be one int64 level for each region.");
  STD_TORCH_CHECK(pooling.size > 0 && pooling.size <= kMaxBins && pooling.stride > 0,
                  "The size must be 1 to 256 and the stride at least 1.");
  STD_TORCH_CHECK(pooling.sampling_ratio <= kMaxSamples, "The sampling ratio must be at most 1024.");
  STD_TORCH_CHECK(shape[2] * shape[3] < (int64_t(1) << 31), "The feature map has too many cells.");
}

// cells: of each pooled number, where it was found, as RoI pooling returns them.
inline void check_cells(const torch::stable::Tensor& cells, const torch::stable::Tensor& gradient) {
  STD_TORCH_CHECK(shape_of(gradient) == shape_of(cells), "Each gradient must have its cell.");
  STD_TORCH_CHECK(cells.scalar_type() == torch::headeronly::ScalarType::Int, "The cells must be int32.");
}

// The regions as the kernels take them, and the memory that they point to.
template <typename A>
struct __attribute__((visibility("hidden"))) RegionTensors {  // as torch's tensors are
  torch::stable::Tensor boxes, index;
  std::optional<torch::stable::Tensor> levels;
  Regions<A> regions;

  RegionTensors(const torch::stable::Tensor& rois, const torch::stable::Tensor& image_index,
                const std::vector<int64_t>& shape, const Pooling& pooling)
      : boxes(torch::stable::contiguous(torch::stable::to(rois, type_of<A>()))),
        index(torch::stable::contiguous(image_index)) {
    regions.boxes = static_cast<const A*>(boxes.data_ptr());
    regions.image = static_cast<const int64_t*>(index.data_ptr());
    regions.count = rois.size(0);
    regions.channels = shape[1];
    regions.height = shape[2];
    regions.width = shape[3];
    regions.bins = pooling.size;
    regions.stride = pooling.stride;
    regions.pooled = (pooling.size + pooling.stride - 1) / pooling.stride;
    regions.scale = static_cast<A>(pooling.scale);
    regions.sampling_ratio = pooling.sampling_ratio;
    regions.aligned = pooling.aligned;
    if (pooling.level.has_value()) levels = torch::stable::contiguous(*pooling.level);
    regions.level = levels.has_value() ? static_cast<const int64_t*>(levels->data_ptr()) : nullptr;
    regions.own_level = pooling.own_level;
  }
};

}  // namespace resdet
