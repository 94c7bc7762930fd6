// The operators' schemas. Shapes and meaning: resdet/ops/__init__.py.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(resdet, m) {
  m.def(
      "roi_align(Tensor features, Tensor rois, Tensor image_index, int size, float scale, int sampling_ratio, "
      "bool aligned, int stride) -> Tensor");
  m.def(
      "roi_align_backward(Tensor gradient, Tensor rois, Tensor image_index, int[] shape, int size, float scale, "
      "int sampling_ratio, bool aligned, int stride) -> Tensor");
  m.def(
      "roi_pool(Tensor features, Tensor rois, Tensor image_index, int size, float scale, int stride) "
      "-> (Tensor, Tensor)");
  m.def(
      "roi_pool_backward(Tensor gradient, Tensor cells, Tensor image_index, int[] shape) -> Tensor");
  m.def("nms(Tensor boxes, Tensor scores, Tensor? labels, float threshold, int max_output) -> Tensor");
  m.def("channel_sums(Tensor? a, Tensor b, Tensor pivot) -> Tensor");
  m.def("instruction_set() -> int");
}
