// 3×3 convolutions by Winograd's algorithm, and the gradient of their weights: transforms of our own around torch's
// matrix products. Maps are float32 or bfloat16; all arithmetic is float32.

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>

#include "dispatch.h"
#include "isa.h"

namespace {

using resdet::Maps;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBytes = 1 << 23;    // of terms that are worked on at a time
constexpr int64_t kFewestTiles = 128;  // at a time: all weights are read for them
constexpr int64_t kTilesOfPiece = 8;
constexpr int64_t kTerms = 36;

// result (B, M, N) = a (B, M, K) · b (B, K, N)
void multiply(const Tensor& a, const Tensor& b, const Tensor& result) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(result)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::bmm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);
}

template <typename T>
T* elements(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

Tensor new_terms(int64_t rows, int64_t columns) {
  return torch::stable::empty({kTerms, rows, columns}, ScalarType::Float);
}

Maps maps_of(const Tensor& x, int64_t channels) { return {x.size(0), x.size(2), x.size(3), channels}; }

void check_channels(int64_t inputs, int64_t outputs) {
  STD_TORCH_CHECK(inputs % 16 == 0 && outputs % 16 == 0, "Channels must come in sixteens.");
}

// Call run(T()) with the type of the maps' elements.
template <typename F>
void dispatch_maps(const Tensor& x, const F& run) {
  if (x.scalar_type() == ScalarType::BFloat16) return run(resdet::bfloat16());
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "The maps must be float32 or bfloat16.");
  run(float());
}

// Call run(first, tiles, chunk) for all tiles, `chunk` or fewer at a time, which are at least `fewest`.
template <typename F>
void for_chunks(const Maps& maps, int64_t channels, int64_t fewest, const F& run) {
  const int64_t tiles = maps.tiles();
  const int64_t fitting = std::max(fewest, kBytes / (kTerms * channels * int64_t(sizeof(float))));
  const int64_t chunks = (tiles + fitting - 1) / fitting, chunk = (tiles + chunks - 1) / std::max<int64_t>(chunks, 1);
  for (int64_t first = 0; first < tiles; first += chunk) run(first, std::min(chunk, tiles - first), chunk);
}

// Call run(first, last) for all tiles below `count`, a few at a time, on all threads.
template <typename F>
void for_tiles(int64_t count, const F& run) {
  resdet::for_pieces((count + kTilesOfPiece - 1) / kTilesOfPiece, [&](int64_t i) {
    run(i * kTilesOfPiece, std::min(count, (i + 1) * kTilesOfPiece));
  });
}

// (N, C, H, W), (36, C, K), (K,), (N, K, H, W) → (N, K, H, W)
Tensor winograd(const Tensor& x, const Tensor& weights, const Tensor& bias, std::optional<Tensor> added, bool relu) {
  STD_TORCH_CHECK(x.dim() == 4 && weights.dim() == 3 && weights.size(0) == kTerms && weights.size(1) == x.size(1),
                  "The maps must be (N, C, H, W) and the weights (36, C, K).");
  const int64_t outputs = weights.size(2);
  check_channels(x.size(1), outputs);
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == outputs, "There must be one bias for each output.");
  for (const Tensor* tensor : {&weights, &bias}) {
    STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Float, "Weights and bias must be float32.");
  }
  const Maps from = maps_of(x, x.size(1)), to = maps_of(x, outputs);
  const Tensor maps = resdet::channels_last(x), shifts = torch::stable::contiguous(bias);
  const Tensor result = resdet::new_maps(x, {to.images, outputs, to.height, to.width}, x.scalar_type());
  std::optional<Tensor> shortcut;
  if (added.has_value()) {
    STD_TORCH_CHECK(resdet::shape_of(*added) == resdet::shape_of(result) && added->scalar_type() == x.scalar_type(),
                    "What is added must be of the type of the maps, in the shape of the result.");
    shortcut = resdet::channels_last(*added);
  }
  dispatch_maps(x, [&](auto t) {
    using T = decltype(t);
    const T* other = shortcut.has_value() ? elements<T>(*shortcut) : nullptr;
    const auto transform_input = RESDET_BEST(winograd_input<T>);
    const auto transform_output = RESDET_BEST(winograd_output<T>);
    Tensor factors, products;
    if (result.numel() == 0) return;
    for_chunks(from, from.channels + outputs, kFewestTiles, [&](int64_t start, int64_t count, int64_t chunk) {
      if (start == 0) {
        factors = new_terms(chunk, from.channels);
        products = new_terms(chunk, outputs);
      }
      // Of the last chunk, rows beyond the last tile hold what was there before: nobody reads their products.
      for_tiles(count, [&](int64_t first, int64_t last) {
        transform_input(from, elements<T>(maps), start + first, start + last,
                        elements<float>(factors) + first * from.channels, chunk * from.channels);
      });
      multiply(factors, weights, products);
      for_tiles(count, [&](int64_t first, int64_t last) {
        transform_output(to, elements<float>(products) + first * outputs, chunk * outputs, elements<float>(shifts),
                         other, relu, start + first, start + last, elements<T>(result));
      });
    });
  });
  return result;
}

// (K, C, 3, 3) → (36, K, C): G g Gᵀ of each filter, turned by half a turn or not
Tensor winograd_weights(const Tensor& weight, bool turned) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
                      weight.scalar_type() == ScalarType::Float,
                  "The weights must be (K, C, 3, 3) in float32.");
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  check_channels(inputs, outputs);
  const Tensor filters = resdet::channels_last(weight), result = new_terms(outputs, inputs);
  resdet::for_pieces(outputs, [&](int64_t k) {
    RESDET_BEST(winograd_filters)(elements<float>(filters) + k * 9 * inputs, inputs, turned,
                                  elements<float>(result) + k * inputs, outputs * inputs);
  });
  return result;
}

// (N, K, H, W), (N, C, H, W) → (K, C, 3, 3) float32
Tensor winograd_weight_gradient(const Tensor& gradient, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && gradient.dim() == 4 && gradient.size(0) == x.size(0) &&
                      gradient.size(2) == x.size(2) && gradient.size(3) == x.size(3),
                  "The gradient must be (N, K, H, W), and the maps (N, C, H, W).");
  STD_TORCH_CHECK(gradient.scalar_type() == x.scalar_type(), "The gradient and the maps must have one type.");
  const int64_t outputs = gradient.size(1), inputs = x.size(1);
  check_channels(inputs, outputs);
  const Tensor maps = resdet::channels_last(x), upstream = resdet::channels_last(gradient);
  Tensor result = resdet::new_maps(x, {outputs, inputs, 3, 3}, ScalarType::Float);
  if (result.numel() == 0 || x.numel() == 0) return torch::stable::zero_(result);
  const Tensor sums = new_terms(outputs, inputs);
  dispatch_maps(x, [&](auto t) {
    using T = decltype(t);
    const Maps from = maps_of(x, inputs), to = maps_of(x, outputs);
    const auto transform_input = RESDET_BEST(winograd_input<T>);
    const auto transform_gradient = RESDET_BEST(winograd_gradient<T>);
    Tensor factors, others, products;
    // As many at a time that adding up the sums costs little beside them.
    const int64_t fewest = std::max(kFewestTiles, 2 * inputs * outputs / (inputs + outputs));
    for_chunks(from, inputs + outputs, fewest, [&](int64_t start, int64_t count, int64_t chunk) {
      if (start == 0 || count < chunk) {
        factors = new_terms(count, inputs);
        others = new_terms(count, outputs);
      }
      for_tiles(count, [&](int64_t first, int64_t last) {
        transform_input(from, elements<T>(maps), start + first, start + last,
                        elements<float>(factors) + first * inputs, count * inputs);
        transform_gradient(to, elements<T>(upstream), start + first, start + last,
                           elements<float>(others) + first * outputs, count * outputs);
      });
      const Tensor turned = torch::stable::transpose(others, 1, 2);
      if (start == 0) return multiply(turned, factors, sums);
      if (!products.defined()) products = new_terms(outputs, inputs);
      multiply(turned, factors, products);
      const int64_t size = outputs * inputs;
      resdet::for_pieces(kTerms, [&](int64_t i) {
        float* sum = elements<float>(sums) + i * size;
        const float* more = elements<float>(products) + i * size;
        for (int64_t j = 0; j < size; ++j) sum[j] += more[j];
      });
    });
  });
  resdet::for_pieces(outputs, [&](int64_t k) {
    RESDET_BEST(winograd_filters_gradient)(elements<float>(sums) + k * inputs, outputs * inputs, inputs,
                                           elements<float>(result) + k * 9 * inputs);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) {
  m.impl("winograd", TORCH_BOX(&winograd));
  m.impl("winograd_weights", TORCH_BOX(&winograd_weights));
  m.impl("winograd_weight_gradient", TORCH_BOX(&winograd_weight_gradient));
}
