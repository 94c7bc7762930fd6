// RoI align and RoI pooling on a CPU: checks, memory and threads around the loops of kernels.h.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dispatch.h"
#include "isa.h"

namespace {

using resdet::dispatch;
using resdet::Regions;
using resdet::shape_of;
using resdet::type_of;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor empty_maps(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::empty(shape, type, std::nullopt, like.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

// The regions as the kernels take them; `boxes` and `index` keep the memory alive.
template <typename A>
Regions<A> describe(const Tensor& boxes, const Tensor& index, const std::vector<int64_t>& shape, int64_t size,
                    double scale, int64_t stride) {
  Regions<A> regions;
  regions.boxes = static_cast<const A*>(boxes.data_ptr());
  regions.image = static_cast<const int64_t*>(index.data_ptr());
  regions.channels = shape[1];
  regions.height = shape[2];
  regions.width = shape[3];
  regions.bins = size;
  regions.stride = stride;
  regions.pooled = (size + stride - 1) / stride;
  regions.scale = static_cast<A>(scale);
  regions.sampling_ratio = 0;
  regions.aligned = false;
  return regions;
}

void check(const Tensor& rois, const Tensor& index, const std::vector<int64_t>& shape, int64_t size, int64_t stride) {
  STD_TORCH_CHECK(shape.size() == 4, "The features must be (N, C, H, W).");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 4, "The regions must be (R, 4).");
  STD_TORCH_CHECK(index.dim() == 1 && index.size(0) == rois.size(0), "There must be one image index for each region.");
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long, "The image index must be int64.");
  STD_TORCH_CHECK(size > 0 && size <= 64 && stride > 0, "The size must be 1 to 64 and the stride at least 1.");
  STD_TORCH_CHECK(shape[2] * shape[3] < (int64_t(1) << 31), "The feature map has too many cells.");
  const int64_t* images = static_cast<const int64_t*>(index.data_ptr());
  for (int64_t r = 0; r < index.size(0); ++r) {
    STD_TORCH_CHECK(images[r] >= 0 && images[r] < shape[0], "An image index is not below the number of images.");
  }
}

// Channels for each thread, in whole vectors: every thread adds up its own, so that sums have one order.
int64_t channel_grain(int64_t channels) {
  const int64_t threads = torch::stable::get_num_threads();
  return ((channels + threads - 1) / threads + 15) / 16 * 16;
}

Tensor roi_align(const Tensor& features, const Tensor& rois, const Tensor& image_index, int64_t size, double scale,
                 int64_t sampling_ratio, bool aligned, int64_t stride) {
  const auto shape = shape_of(features);
  const Tensor index = torch::stable::contiguous(image_index);
  check(rois, index, shape, size, stride);
  const Tensor maps = torch::stable::contiguous(features, MemoryFormat::ChannelsLast);
  const int64_t pooled = (size + stride - 1) / stride, count = rois.size(0);
  Tensor out = empty_maps(features, {count, shape[1], pooled, pooled}, features.scalar_type());
  dispatch(features.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    const Tensor boxes = torch::stable::contiguous(torch::stable::to(rois, type_of<A>()));
    Regions<A> regions = describe<A>(boxes, index, shape, size, scale, stride);
    regions.sampling_ratio = sampling_ratio;
    regions.aligned = aligned;
    const auto kernel = RESDET_BEST(align_forward<T, A>);
    torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      std::vector<A> workspace(resdet::align_workspace(regions));
      kernel(regions, static_cast<const T*>(maps.data_ptr()), static_cast<T*>(out.data_ptr()), workspace.data(), first,
             last);
    });
  });
  return out;
}

Tensor roi_align_backward(const Tensor& gradient, const Tensor& rois, const Tensor& image_index,
                          std::vector<int64_t> shape, int64_t size, double scale, int64_t sampling_ratio, bool aligned,
                          int64_t stride) {
  const Tensor index = torch::stable::contiguous(image_index);
  check(rois, index, shape, size, stride);
  const Tensor from = torch::stable::contiguous(gradient, MemoryFormat::ChannelsLast);
  Tensor sums;
  dispatch(gradient.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    sums = empty_maps(gradient, shape, type_of<A>());
    torch::stable::zero_(sums);
    const Tensor boxes = torch::stable::contiguous(torch::stable::to(rois, type_of<A>()));
    Regions<A> regions = describe<A>(boxes, index, shape, size, scale, stride);
    regions.sampling_ratio = sampling_ratio;
    regions.aligned = aligned;
    const auto kernel = RESDET_BEST(align_backward<T, A>);
    const int64_t grain = channel_grain(shape[1]);
    torch::stable::parallel_for(0, (shape[1] + grain - 1) / grain, 1, [&](int64_t first, int64_t last) {
      std::vector<A> workspace(resdet::align_workspace(regions));
      const int64_t end = last * grain < shape[1] ? last * grain : shape[1];
      kernel(regions, rois.size(0), static_cast<const T*>(from.data_ptr()), static_cast<A*>(sums.data_ptr()),
             workspace.data(), first * grain, end);
    });
  });
  return torch::stable::to(sums, gradient.scalar_type());
}

std::tuple<Tensor, Tensor> roi_pool(const Tensor& features, const Tensor& rois, const Tensor& image_index,
                                    int64_t size, double scale, int64_t stride) {
  const auto shape = shape_of(features);
  const Tensor index = torch::stable::contiguous(image_index);
  check(rois, index, shape, size, stride);
  const Tensor maps = torch::stable::contiguous(features, MemoryFormat::ChannelsLast);
  const int64_t pooled = (size + stride - 1) / stride, count = rois.size(0);
  Tensor out = empty_maps(features, {count, shape[1], pooled, pooled}, features.scalar_type());
  Tensor cells = empty_maps(features, {count, shape[1], pooled, pooled}, ScalarType::Int);
  dispatch(features.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    const Tensor boxes = torch::stable::contiguous(torch::stable::to(rois, type_of<A>()));
    const Regions<A> regions = describe<A>(boxes, index, shape, size, scale, stride);
    const auto kernel = RESDET_BEST(pool_forward<T, A>);
    torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      kernel(regions, static_cast<const T*>(maps.data_ptr()), static_cast<T*>(out.data_ptr()),
             static_cast<int32_t*>(cells.data_ptr()), first, last);
    });
  });
  return std::make_tuple(out, cells);
}

Tensor roi_pool_backward(const Tensor& gradient, const Tensor& cells, const Tensor& rois, const Tensor& image_index,
                         std::vector<int64_t> shape, int64_t size, double scale, int64_t stride) {
  const Tensor index = torch::stable::contiguous(image_index);
  check(rois, index, shape, size, stride);
  const Tensor from = torch::stable::contiguous(gradient, MemoryFormat::ChannelsLast);
  const Tensor chosen = torch::stable::contiguous(cells, MemoryFormat::ChannelsLast);
  STD_TORCH_CHECK(gradient.numel() == cells.numel(), "The gradient must have the shape of the pooled regions.");
  Tensor sums;
  dispatch(gradient.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    sums = empty_maps(gradient, shape, type_of<A>());
    torch::stable::zero_(sums);
    Regions<A> regions = describe<A>(sums, index, shape, size, scale, stride);
    const auto kernel = RESDET_BEST(pool_backward<T, A>);
    const int64_t grain = channel_grain(shape[1]);
    torch::stable::parallel_for(0, (shape[1] + grain - 1) / grain, 1, [&](int64_t first, int64_t last) {
      const int64_t end = last * grain < shape[1] ? last * grain : shape[1];
      kernel(regions, gradient.size(0), static_cast<const T*>(from.data_ptr()),
             static_cast<const int32_t*>(chosen.data_ptr()), static_cast<A*>(sums.data_ptr()), first * grain, end);
    });
  });
  return torch::stable::to(sums, gradient.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward));
  m.impl("roi_pool", TORCH_BOX(&roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&roi_pool_backward));
}
