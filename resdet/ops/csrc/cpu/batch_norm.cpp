// Batch normalisation in parts: its sums over the batch, the affine map with shortcut and ReLU, and their gradients.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "dispatch.h"
#include "isa.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kParts = 64;  // whatever the number of threads, so that the sums have one order

// A tensor of x's shape and type, channels-last.
Tensor like(const Tensor& tensor, const Tensor& x) {
  STD_TORCH_CHECK(resdet::shape_of(tensor) == resdet::shape_of(x), "The tensors must have one shape.");
  STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), "The tensors must have one type.");
  return resdet::channels_last(tensor);
}

std::optional<Tensor> like(const std::optional<Tensor>& tensor, const Tensor& x) {
  return tensor.has_value() ? std::optional<Tensor>(like(*tensor, x)) : std::nullopt;
}

// Memory like x.
Tensor new_maps(const Tensor& x) { return resdet::new_maps(x, resdet::shape_of(x), x.scalar_type()); }

Tensor of_channels(const Tensor& values, const Tensor& x, ScalarType type) {
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == x.size(1), "There must be one number for each channel.");
  if (values.scalar_type() == type && values.is_contiguous()) return values;
  return torch::stable::contiguous(torch::stable::to(values, type));
}

template <typename T>
T* pointer(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}
template <typename T>
T* pointer(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? pointer<T>(*tensor) : nullptr;
}
template <typename T>
T* moved(T* at, int64_t elements) {
  return at ? at + elements : nullptr;
}

// Call run(part, first row, rows) for all parts of x's N·H·W rows, on all threads. Parts start at multiples of 64 rows.
template <typename F>
void for_parts(const Tensor& x, const F& run) {
  if (x.numel() == 0) return;
  const int64_t rows = x.size(0) * x.size(2) * x.size(3), share = ((rows + kParts - 1) / kParts + 63) / 64 * 64;
  resdet::for_pieces(kParts, [&](int64_t part) {
    const int64_t start = part * share;
    if (start < rows) run(part, start, std::min(share, rows - start));
  });
}

// (N, C, H, W) thrice, (C,) → (2, C): Σ a and Σ a·(x − pivot), a being the gradient where the output is not zero; no
// gradient stands for x − pivot
Tensor channel_sums(std::optional<Tensor> gradient, std::optional<Tensor> output, const Tensor& x,
                    const Tensor& pivot) {
  STD_TORCH_CHECK(x.dim() == 4, "The tensors must be (N, C, H, W).");
  const Tensor values = like(x, x);
  const auto g = like(gradient, x), y = like(output, x);
  const int64_t channels = x.size(1);
  std::vector<double> parts(kParts * 2 * channels, 0.0);
  Tensor result;
  resdet::dispatch(x.scalar_type(), [&](auto t, auto s) {
    using T = decltype(t);
    using A = decltype(s);
    const Tensor p = of_channels(pivot, x, resdet::type_of<A>());
    const auto kernel = RESDET_BEST(channel_sums<T, A>);
    for_parts(x, [&](int64_t part, int64_t start, int64_t rows) {
      const int64_t at = start * channels;
      kernel(moved(pointer<T>(g), at), moved(pointer<T>(y), at), pointer<T>(values) + at, pointer<A>(p), rows,
             channels, parts.data() + part * 2 * channels);
    });
    result = torch::stable::empty({2, channels}, resdet::type_of<A>(), std::nullopt, x.device());
    A* sums = pointer<A>(result);
    for (int64_t part = 1; part < kParts; ++part) {
      for (int64_t c = 0; c < 2 * channels; ++c) parts[c] += parts[part * 2 * channels + c];
    }
    for (int64_t c = 0; c < 2 * channels; ++c) sums[c] = static_cast<A>(parts[c]);
  });
  return result;
}

// (N, C, H, W) twice, (C,) twice → (N, C, H, W): x·scale + shift + added, rectified or not
Tensor affine(const Tensor& x, std::optional<Tensor> added, const Tensor& scale, const Tensor& shift, bool relu) {
  STD_TORCH_CHECK(x.dim() == 4, "The tensors must be (N, C, H, W).");
  const Tensor values = like(x, x);
  const auto other = like(added, x);
  const Tensor result = new_maps(x);
  resdet::dispatch(x.scalar_type(), [&](auto t, auto s) {
    using T = decltype(t);
    using A = decltype(s);
    const Tensor scales = of_channels(scale, x, resdet::type_of<A>());
    const Tensor shifts = of_channels(shift, x, resdet::type_of<A>());
    const auto kernel = RESDET_BEST(affine<T, A>);
    for_parts(x, [&](int64_t, int64_t start, int64_t rows) {
      const int64_t at = start * x.size(1);
      kernel(pointer<T>(values) + at, moved(pointer<T>(other), at), pointer<A>(scales), pointer<A>(shifts), relu, rows,
             x.size(1), pointer<T>(result) + at);
    });
  });
  return result;
}

// The gradients of x, g·scale + x·slope + offset, and of `added`, g, where g is the gradient where the output is not
// zero. Without x: g·scale.
std::tuple<Tensor, Tensor> affine_gradient(const Tensor& gradient, std::optional<Tensor> output,
                                           std::optional<Tensor> x, const Tensor& scale, std::optional<Tensor> slope,
                                           std::optional<Tensor> offset, bool with_added) {
  STD_TORCH_CHECK(gradient.dim() == 4, "The tensors must be (N, C, H, W).");
  STD_TORCH_CHECK(x.has_value() == slope.has_value() && x.has_value() == offset.has_value(),
                  "x, its slope and offset come together.");
  const Tensor g = like(gradient, gradient);
  const auto y = like(output, gradient), values = like(x, gradient);
  const Tensor result = new_maps(gradient);
  const Tensor masked = with_added ? new_maps(gradient) : torch::stable::empty({0}, gradient.scalar_type());
  resdet::dispatch(gradient.scalar_type(), [&](auto t, auto s) {
    using T = decltype(t);
    using A = decltype(s);
    const auto type = resdet::type_of<A>();
    const Tensor scales = of_channels(scale, gradient, type);
    std::optional<Tensor> slopes, offsets;
    if (x.has_value()) {
      slopes = of_channels(*slope, gradient, type);
      offsets = of_channels(*offset, gradient, type);
    }
    const auto kernel = RESDET_BEST(affine_gradient<T, A>);
    for_parts(gradient, [&](int64_t, int64_t start, int64_t rows) {
      const int64_t at = start * gradient.size(1);
      kernel(pointer<T>(g) + at, moved(pointer<T>(y), at), moved(pointer<T>(values), at), pointer<A>(scales),
             pointer<A>(slopes), pointer<A>(offsets), rows, gradient.size(1), pointer<T>(result) + at,
             with_added ? pointer<T>(masked) + at : nullptr);
    });
  });
  return {result, masked};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) {
  m.impl("channel_sums", TORCH_BOX(&channel_sums));
  m.impl("affine", TORCH_BOX(&affine));
  m.impl("affine_gradient", TORCH_BOX(&affine_gradient));
}
