// The sums that batch normalisation needs of its input and of its gradient.

#include <torch/csrc/stable/library.h>

#include <optional>

#include "dispatch.h"
#include "isa.h"

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kParts = 64;  // whatever the number of threads, so that the sums have one order

// (N, C, H, W), the same, (C,) → (2, C): Σ a and Σ a·(b − pivot); no a stands for b − pivot
Tensor channel_sums(std::optional<Tensor> a, const Tensor& b, const Tensor& pivot) {
  STD_TORCH_CHECK(b.dim() == 4, "The tensors must be (N, C, H, W).");
  STD_TORCH_CHECK(pivot.dim() == 1 && pivot.size(0) == b.size(1), "There must be one pivot for each channel.");
  std::optional<Tensor> x;
  if (a.has_value()) {
    STD_TORCH_CHECK(resdet::shape_of(*a) == resdet::shape_of(b), "Both tensors must have one shape.");
    STD_TORCH_CHECK(a->scalar_type() == b.scalar_type(), "Both tensors must have one type.");
    x = torch::stable::contiguous(*a, MemoryFormat::ChannelsLast);
  }
  const Tensor y = torch::stable::contiguous(b, MemoryFormat::ChannelsLast);
  const int64_t channels = b.size(1), rows = b.size(0) * b.size(2) * b.size(3);
  std::vector<double> parts(kParts * 2 * channels, 0.0);
  Tensor result;
  resdet::dispatch(b.scalar_type(), [&](auto t, auto s) {
    using T = decltype(t);
    using A = decltype(s);
    const Tensor p = torch::stable::contiguous(torch::stable::to(pivot, resdet::type_of<A>()));
    const auto kernel = RESDET_BEST(channel_sums<T, A>);
    const T* first_a = x.has_value() ? static_cast<const T*>(x->data_ptr()) : nullptr;
    const int64_t share = ((rows + kParts - 1) / kParts + 63) / 64 * 64;
    torch::stable::parallel_for(0, kParts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t start = part * share, end = start + share < rows ? start + share : rows;
        if (start >= end) continue;
        kernel(first_a ? first_a + start * channels : nullptr,
               static_cast<const T*>(y.data_ptr()) + start * channels, static_cast<const A*>(p.data_ptr()),
               end - start, channels, parts.data() + part * 2 * channels);
      }
    });
    result = torch::stable::empty({2, channels}, resdet::type_of<A>(), std::nullopt, b.device());
    A* sums = static_cast<A*>(result.data_ptr());
    for (int64_t c = 0; c < 2 * channels; ++c) {
      double sum = 0;
      for (int64_t part = 0; part < kParts; ++part) sum += parts[part * 2 * channels + c];
      sums[c] = static_cast<A>(sum);
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) { m.impl("channel_sums", TORCH_BOX(&channel_sums)); }
