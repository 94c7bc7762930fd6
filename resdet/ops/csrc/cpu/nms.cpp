// Greedy non-maximum suppression on a CPU: each box, best first, is tested against those that were kept.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <unordered_map>
#include <vector>

#include "isa.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The kept boxes of one label: x1, y1, x2, y2 and area, padded with empty boxes to whole lanes.
template <typename A>
struct Kept {
  std::array<std::vector<A>, 5> columns;
  int64_t count = 0;

  void add(const A* box, A area) {
    if (count % resdet::kLanes == 0) {
      for (auto& column : columns) column.resize(count + resdet::kLanes, A(0));
    }
    for (int i = 0; i < 4; ++i) columns[i][count] = box[i];
    columns[4][count++] = area;
  }
};

// Positions by descending score, equal ones in their order; no number at all comes first, as in torch.sort.
template <typename A>
std::vector<int64_t> best_first(const A* scores, int64_t count) {
  const auto before = [scores](int64_t a, int64_t b) {
    const A x = scores[a], y = scores[b];
    return x != x ? y == y : x > y;
  };
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t(0));
  if (!std::is_sorted(order.begin(), order.end(), before)) std::stable_sort(order.begin(), order.end(), before);
  return order;
}

template <typename A>
std::vector<int64_t> suppress(const A* boxes, const A* scores, const int64_t* labels, int64_t count, A threshold,
                              int64_t max_output) {
  const auto overlaps = RESDET_BEST(overlaps_any<A>);
  std::unordered_map<int64_t, Kept<A>> kept;
  std::vector<int64_t> result;
  for (const int64_t i : best_first(scores, count)) {
    if (max_output >= 0 && static_cast<int64_t>(result.size()) >= max_output) break;
    const A* box = boxes + 4 * i;
    const A area = (box[2] - box[0]) * (box[3] - box[1]);
    Kept<A>& rivals = kept[labels ? labels[i] : 0];
    const std::array<const A*, 5> columns = {rivals.columns[0].data(), rivals.columns[1].data(),
                                             rivals.columns[2].data(), rivals.columns[3].data(),
                                             rivals.columns[4].data()};
    if (overlaps(box, area, columns.data(), rivals.count, threshold)) continue;
    rivals.add(box, area);
    result.push_back(i);
  }
  return result;
}

Tensor nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> labels, double threshold,
           int64_t max_output) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "The boxes must be (M, 4).");
  const int64_t count = boxes.size(0);
  STD_TORCH_CHECK(scores.dim() == 1 && scores.size(0) == count, "There must be one score for each box.");
  const bool wide = boxes.scalar_type() == ScalarType::Double;
  const ScalarType type = wide ? ScalarType::Double : ScalarType::Float;
  const Tensor b = torch::stable::contiguous(torch::stable::to(boxes, type));
  const Tensor s = torch::stable::contiguous(torch::stable::to(scores, type));
  std::optional<Tensor> l;
  if (labels.has_value()) {
    STD_TORCH_CHECK(labels->dim() == 1 && labels->size(0) == count, "There must be one label for each box.");
    l = torch::stable::contiguous(torch::stable::to(*labels, ScalarType::Long));
  }
  const int64_t* label = l.has_value() ? static_cast<const int64_t*>(l->data_ptr()) : nullptr;
  const std::vector<int64_t> kept =
      wide ? suppress<double>(static_cast<const double*>(b.data_ptr()), static_cast<const double*>(s.data_ptr()),
                              label, count, threshold, max_output)
           : suppress<float>(static_cast<const float*>(b.data_ptr()), static_cast<const float*>(s.data_ptr()), label,
                             count, static_cast<float>(threshold), max_output);
  Tensor result = torch::stable::empty({static_cast<int64_t>(kept.size())}, ScalarType::Long, std::nullopt,
                                       boxes.device());
  std::copy(kept.begin(), kept.end(), static_cast<int64_t*>(result.data_ptr()));
  return result;
}

int64_t instruction_set() { return static_cast<int64_t>(resdet::isa()); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) { m.impl("nms", TORCH_BOX(&nms)); }

STABLE_TORCH_LIBRARY_IMPL(resdet, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&instruction_set));
}
