// The operators' schemas. Shapes and meaning: resdet/ops/__init__.py.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(resdet, m) {
  m.def(
      "roi_align(Tensor[] maps, Tensor rois, Tensor image_index, Tensor? level, int size, float[] scales, "
      "int sampling_ratio, bool aligned, int stride) -> Tensor");
  m.def(
      "roi_align_backward(Tensor gradient, Tensor rois, Tensor image_index, Tensor? level, int[] sides, int size, "
      "float[] scales, int sampling_ratio, bool aligned, int stride) -> Tensor[]");
  m.def(
      "roi_pool(Tensor features, Tensor rois, Tensor image_index, int size, float scale, int stride) "
      "-> (Tensor, Tensor)");
  m.def(
      "roi_pool_backward(Tensor gradient, Tensor cells, Tensor rois, Tensor image_index, int[] shape, int size, "
      "float scale, int stride) -> Tensor");
  m.def("nms(Tensor boxes, Tensor scores, Tensor? labels, float threshold, int max_output) -> Tensor");
  m.def("channel_sums(Tensor? gradient, Tensor? output, Tensor x, Tensor pivot) -> Tensor");
  m.def("affine(Tensor x, Tensor? added, Tensor scale, Tensor shift, bool relu) -> Tensor");
  m.def(
      "affine_gradient(Tensor gradient, Tensor? output, Tensor? x, Tensor scale, Tensor? slope, Tensor? offset, "
      "bool with_added) -> (Tensor, Tensor)");
  m.def(
      "batch_norm(Tensor x, Tensor? added, Tensor gamma, Tensor beta, Tensor(a!) running_mean, "
      "Tensor(b!) running_var, float share, float eps, float far, bool relu) -> (Tensor, Tensor)");
  m.def(
      "batch_norm_gradient(Tensor gradient, Tensor? output, Tensor x, Tensor statistics, bool relu, bool with_added) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("winograd(Tensor x, Tensor weights, Tensor bias, Tensor? added, bool relu) -> Tensor");
  m.def("winograd_weights(Tensor weight, bool turned) -> Tensor");
  m.def("winograd_weight_gradient(Tensor gradient, Tensor x) -> Tensor");
  m.def("quantize(Tensor x, float scale, int zero) -> Tensor");
  m.def(
      "roi_align_quantized(Tensor[] maps, int[] zeros, float[] factors, Tensor offset, Tensor rois, "
      "Tensor image_index, Tensor? level, int size, float[] scales, int sampling_ratio, bool aligned, int stride) "
      "-> Tensor");
  m.def("cell_means(Tensor x) -> Tensor");
  m.def("max_pool(Tensor x) -> Tensor");
  m.def("look_up(Tensor images, Tensor table, Tensor sizes, int height, int width) -> Tensor");
  m.def("instruction_set() -> int");
  m.def("runs_on_gpu(int index) -> bool");
}
