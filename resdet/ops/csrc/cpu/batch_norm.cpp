// Batch normalisation in parts: its sums over the batch, the affine map with shortcut and ReLU, and their gradients.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
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

// What an operator below works on: x, and beside it, if there are any, other tensors of its shape and type.
struct Operands {
  Tensor x;
  std::optional<Tensor> gradient, output, added;
  int64_t channels = x.size(1), count = std::max<int64_t>(1, x.size(0) * x.size(2) * x.size(3));  // values of each
};

// (2, C): Σ a and Σ a·(x − pivot), a being the gradient where the output is not zero; no gradient stands for x − pivot.
// With a shift, the output is x·scale + shift.
template <typename T, typename A>
std::vector<double> sums_of(const Operands& on, const A* pivot, const A* scale = nullptr, const A* shift = nullptr) {
  const int64_t channels = on.channels;
  std::vector<double> parts(kParts * 2 * channels, 0.0);
  const auto kernel = RESDET_BEST(channel_sums<T, A>);
  for_parts(on.x, [&](int64_t part, int64_t start, int64_t rows) {
    const int64_t at = start * channels;
    kernel(moved(pointer<T>(on.gradient), at), moved(pointer<T>(on.output), at), pointer<T>(on.x) + at, pivot, scale,
           shift, rows, channels, parts.data() + part * 2 * channels);
  });
  for (int64_t part = 1; part < kParts; ++part) {
    for (int64_t c = 0; c < 2 * channels; ++c) parts[c] += parts[part * 2 * channels + c];
  }
  parts.resize(2 * channels);
  return parts;
}

// x·scale + shift + added, rectified or not
template <typename T, typename A>
Tensor affine_of(const Operands& on, const A* scale, const A* shift, bool relu) {
  const Tensor result = new_maps(on.x);
  const auto kernel = RESDET_BEST(affine<T, A>);
  for_parts(on.x, [&](int64_t, int64_t start, int64_t rows) {
    const int64_t at = start * on.channels;
    kernel(pointer<T>(on.x) + at, moved(pointer<T>(on.added), at), scale, shift, relu, rows, on.channels,
           pointer<T>(result) + at);
  });
  return result;
}

// The gradients of x, g·scale + x·slope + offset, and of `added`, g, where g is the gradient where the output is not
// zero. Without slope and offset: g·scale. With a shift, the output is x·scale + shift.
template <typename T, typename A>
std::tuple<Tensor, Tensor> affine_gradient_of(const Operands& on, const A* scale, const A* shift, const A* slope,
                                              const A* offset, bool with_added) {
  const Tensor result = new_maps(on.x);
  const Tensor masked = with_added ? new_maps(on.x) : torch::stable::empty({0}, on.x.scalar_type());
  const auto kernel = RESDET_BEST(affine_gradient<T, A>);
  for_parts(on.x, [&](int64_t, int64_t start, int64_t rows) {
    const int64_t at = start * on.channels;
    kernel(pointer<T>(on.gradient) + at, moved(pointer<T>(on.output), at), slope ? pointer<T>(on.x) + at : nullptr,
           scale, shift, slope, offset, rows, on.channels, pointer<T>(result) + at,
           with_added ? pointer<T>(masked) + at : nullptr);
  });
  return {result, masked};
}

Tensor new_numbers(const Tensor& x, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::empty(shape, type, std::nullopt, x.device());
}

// (N, C, H, W) thrice, (C,) → (2, C)
Tensor channel_sums(std::optional<Tensor> gradient, std::optional<Tensor> output, const Tensor& x,
                    const Tensor& pivot) {
  STD_TORCH_CHECK(x.dim() == 4, "The tensors must be (N, C, H, W).");
  const Operands on{like(x, x), like(gradient, x), like(output, x), std::nullopt};
  Tensor result;
  resdet::dispatch(x.scalar_type(), [&](auto t, auto s) {
    using A = decltype(s);
    const Tensor around = of_channels(pivot, x, resdet::type_of<A>());
    const auto sums = sums_of<decltype(t), A>(on, pointer<A>(around));
    result = new_numbers(x, {2, on.channels}, resdet::type_of<A>());
    std::transform(sums.begin(), sums.end(), pointer<A>(result), [](double sum) { return static_cast<A>(sum); });
  });
  return result;
}

// (N, C, H, W) twice, (C,) twice → (N, C, H, W)
Tensor affine(const Tensor& x, std::optional<Tensor> added, const Tensor& scale, const Tensor& shift, bool relu) {
  STD_TORCH_CHECK(x.dim() == 4, "The tensors must be (N, C, H, W).");
  const Operands on{like(x, x), std::nullopt, std::nullopt, like(added, x)};
  Tensor result;
  resdet::dispatch(x.scalar_type(), [&](auto t, auto s) {
    using A = decltype(s);
    const Tensor scales = of_channels(scale, x, resdet::type_of<A>());
    const Tensor shifts = of_channels(shift, x, resdet::type_of<A>());
    result = affine_of<decltype(t), A>(on, pointer<A>(scales), pointer<A>(shifts), relu);
  });
  return result;
}

// (N, C, H, W) thrice, (C,) thrice → (N, C, H, W) twice, the second empty if it is not wanted
std::tuple<Tensor, Tensor> affine_gradient(const Tensor& gradient, std::optional<Tensor> output,
                                           std::optional<Tensor> x, const Tensor& scale, std::optional<Tensor> slope,
                                           std::optional<Tensor> offset, bool with_added) {
  STD_TORCH_CHECK(gradient.dim() == 4, "The tensors must be (N, C, H, W).");
  STD_TORCH_CHECK(x.has_value() == slope.has_value() && x.has_value() == offset.has_value(),
                  "x, its slope and offset come together.");
  const Tensor given = like(gradient, gradient);
  const Operands on{x.has_value() ? like(*x, gradient) : given, given, like(output, gradient), std::nullopt};
  std::tuple<Tensor, Tensor> result;
  resdet::dispatch(gradient.scalar_type(), [&](auto t, auto s) {
    using A = decltype(s);
    const auto of_type = [&](const Tensor& values) { return of_channels(values, gradient, resdet::type_of<A>()); };
    const Tensor scales = of_type(scale);
    std::optional<Tensor> slopes, offsets;
    if (slope.has_value()) slopes = of_type(*slope);
    if (offset.has_value()) offsets = of_type(*offset);
    result = affine_gradient_of<decltype(t), A>(on, pointer<A>(scales), nullptr, pointer<A>(slopes),
                                                pointer<A>(offsets), with_added);
  });
  return result;
}

// Numbers of each channel that `batch_norm` finds and its gradient needs, and the shift β − mean · scale.
template <typename A>
struct Statistics {
  static constexpr int64_t kRows = 5;
  A *mean, *var, *deviation, *scale, *shift;  // the biased variance, 1 / √(var + ε), γ / √(var + ε)

  Statistics(const Tensor& rows, int64_t channels) : mean(pointer<A>(rows)) {
    var = mean + channels;
    deviation = var + channels;
    scale = deviation + channels;
    shift = scale + channels;
  }
};

// Move a running value towards that of the batch; `share` of the way.
template <typename A>
void move(Tensor& running, const A* batch, double factor, double share) {
  STD_TORCH_CHECK(running.is_contiguous() && running.scalar_type() == resdet::type_of<A>(),
                  "The running statistics must be contiguous, in the type of the sums.");
  A* own = pointer<A>(running);
  for (int64_t c = 0; c < running.size(0); ++c) {
    own[c] = static_cast<A>(own[c] + share * (factor * batch[c] - own[c]));
  }
}

// (N, C, H, W) twice, (C,) four times → γ (x − mean) / √(var + ε) + β + added, rectified or not, and the statistics
// (5, C). The running statistics move towards them. The sums are taken around the running mean; where (mean − running mean)² is
// more than `far` times the variance, they are taken again around the mean just found.
std::tuple<Tensor, Tensor> batch_norm(const Tensor& x, std::optional<Tensor> added, const Tensor& gamma,
                                      const Tensor& beta, Tensor running_mean, Tensor running_var, double share,
                                      double eps, double far, bool relu) {
  STD_TORCH_CHECK(x.dim() == 4, "The tensors must be (N, C, H, W).");
  const Operands on{like(x, x), std::nullopt, std::nullopt, like(added, x)};
  std::tuple<Tensor, Tensor> result;
  resdet::dispatch(x.scalar_type(), [&](auto t, auto s) {
    using T = decltype(t);
    using A = decltype(s);
    const auto of_type = [&](const Tensor& values) { return of_channels(values, x, resdet::type_of<A>()); };
    const Tensor factors = of_type(gamma), shifts = of_type(beta), guess = of_type(running_mean);
    of_type(running_var);  // has as many numbers
    const int64_t channels = on.channels;
    const Tensor rows = new_numbers(x, {Statistics<A>::kRows, channels}, resdet::type_of<A>());
    const Statistics<A> to(rows, channels);
    std::vector<A> around(pointer<A>(guess), pointer<A>(guess) + channels);
    for (int attempt = 0; attempt < 2; ++attempt) {
      const auto sums = sums_of<T, A>(on, around.data());
      bool again = false;
      for (int64_t c = 0; c < channels; ++c) {
        const double shifted = sums[c] / on.count, var = sums[channels + c] / on.count - shifted * shifted;
        to.mean[c] = static_cast<A>(around[c] + shifted);
        to.var[c] = static_cast<A>(var < 0 ? 0.0 : var);
        again |= shifted * shifted > far * to.var[c];
      }
      if (!again) break;
      std::copy(to.mean, to.mean + channels, around.begin());
    }
    for (int64_t c = 0; c < channels; ++c) {
      to.deviation[c] = static_cast<A>(1 / std::sqrt(static_cast<double>(to.var[c]) + eps));
      to.scale[c] = pointer<A>(factors)[c] * to.deviation[c];
      to.shift[c] = pointer<A>(shifts)[c] - to.mean[c] * to.scale[c];
    }
    result = {affine_of<T, A>(on, to.scale, to.shift, relu), rows};
    if (on.count == 1) return;  // one value, or none, has no variance
    move(running_mean, to.mean, 1.0, share);
    move(running_var, to.var, static_cast<double>(on.count) / (on.count - 1), share);
  });
  return result;
}

// (N, C, H, W) thrice, the (5, C) of `batch_norm` → the gradients of x and of `added`, which is empty if it is not
// wanted, and (2, C): those of γ and β. `relu`: the output was rectified; nothing was added if it is not given.
std::tuple<Tensor, Tensor, Tensor> batch_norm_gradient(const Tensor& gradient, std::optional<Tensor> output,
                                                       const Tensor& x, const Tensor& statistics, bool relu,
                                                       bool with_added) {
  STD_TORCH_CHECK(x.dim() == 4, "The tensors must be (N, C, H, W).");
  const Operands on{like(x, x), like(gradient, x), like(output, x), std::nullopt};
  std::tuple<Tensor, Tensor, Tensor> result;
  resdet::dispatch(x.scalar_type(), [&](auto t, auto s) {
    using T = decltype(t);
    using A = decltype(s);
    const int64_t channels = on.channels;
    STD_TORCH_CHECK(resdet::shape_of(statistics) == (std::vector<int64_t>{Statistics<A>::kRows, channels}) &&
                        statistics.is_contiguous() && statistics.scalar_type() == resdet::type_of<A>(),
                    "The statistics must be those of batch_norm.");
    const Statistics<A> of(statistics, channels);
    const A* shift = relu && !output.has_value() ? of.shift : nullptr;
    const auto sums = sums_of<T, A>(on, of.mean, of.scale, shift);  // Σ g and Σ g (x − mean)
    const Tensor for_parameters = new_numbers(x, {2, channels}, resdet::type_of<A>());
    A *for_gamma = pointer<A>(for_parameters), *for_beta = for_gamma + channels;
    std::vector<A> slope(channels), offset(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double total = sums[c], product = sums[channels + c], scale = of.scale[c], deviation = of.deviation[c];
      slope[c] = static_cast<A>(-scale * deviation * deviation * product / on.count);  // through the variance
      offset[c] = static_cast<A>(-scale * total / on.count - slope[c] * of.mean[c]);   // through the mean
      for_gamma[c] = static_cast<A>(product * deviation);
      for_beta[c] = static_cast<A>(total);
    }
    const auto [for_x, for_added] =
        affine_gradient_of<T, A>(on, of.scale, shift, slope.data(), offset.data(), with_added);
    result = {for_x, for_added, for_parameters};
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) {
  m.impl("channel_sums", TORCH_BOX(&channel_sums));
  m.impl("affine", TORCH_BOX(&affine));
  m.impl("affine_gradient", TORCH_BOX(&affine_gradient));
  m.impl("batch_norm", TORCH_BOX(&batch_norm));
  m.impl("batch_norm_gradient", TORCH_BOX(&batch_norm_gradient));
}
