// 3×3 convolutions of float32 maps by Winograd's algorithm: transforms of our own around torch's matrix products.

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

constexpr int64_t kBytes = 1 << 23;    // of factors and products that are worked on at a time
constexpr int64_t kFewestTiles = 128;  // at a time: all weights are read for them
constexpr int64_t kTilesOfPiece = 8;
constexpr int64_t kTerms = 36;

// result (B, T, K) = a (B, T, C) · b (B, C, K)
void multiply(const Tensor& a, const Tensor& b, const Tensor& result) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(result)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::bmm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);
}

float* elements(const Tensor& x) { return static_cast<float*>(x.data_ptr()); }

// (N, C, H, W), (36, C, K), (K,), (N, K, H, W) → (N, K, H, W)
Tensor winograd(const Tensor& x, const Tensor& weights, const Tensor& bias, std::optional<Tensor> added, bool relu) {
  STD_TORCH_CHECK(x.dim() == 4 && weights.dim() == 3 && weights.size(0) == kTerms && weights.size(1) == x.size(1),
                  "The maps must be (N, C, H, W) and the weights (36, C, K).");
  const int64_t outputs = weights.size(2);
  STD_TORCH_CHECK(x.size(1) % 16 == 0 && outputs % 16 == 0, "Channels must come in sixteens.");
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == outputs, "There must be one bias for each output.");
  for (const Tensor* tensor : {&x, &weights, &bias}) {
    STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Float, "Maps, weights and bias must be float32.");
  }
  const Maps from{x.size(0), x.size(2), x.size(3), x.size(1)}, to{x.size(0), x.size(2), x.size(3), outputs};
  const Tensor maps = resdet::channels_last(x), shifts = torch::stable::contiguous(bias);
  const Tensor result = resdet::new_maps(x, {to.images, outputs, to.height, to.width}, ScalarType::Float);
  std::optional<Tensor> shortcut;
  if (added.has_value()) {
    STD_TORCH_CHECK(resdet::shape_of(*added) == resdet::shape_of(result) && added->scalar_type() == ScalarType::Float,
                    "What is added must be float32 in the shape of the result.");
    shortcut = resdet::channels_last(*added);
  }
  const float* other = shortcut.has_value() ? elements(*shortcut) : nullptr;
  if (result.numel() == 0) return result;
  const int64_t tiles = from.tiles();
  const int64_t of_tile = kTerms * (from.channels + outputs) * int64_t(sizeof(float));
  const int64_t fitting = std::max(kFewestTiles, kBytes / of_tile);
  const int64_t chunks = (tiles + fitting - 1) / fitting, chunk = (tiles + chunks - 1) / chunks;
  const Tensor factors = torch::stable::empty({kTerms, chunk, from.channels}, ScalarType::Float);
  const Tensor products = torch::stable::empty({kTerms, chunk, outputs}, ScalarType::Float);
  const auto transform_input = RESDET_BEST(winograd_input);
  const auto transform_output = RESDET_BEST(winograd_output);
  for (int64_t start = 0; start < tiles; start += chunk) {
    // Of the last chunk, rows beyond the last tile hold what was there before: nobody reads their products.
    const int64_t count = std::min(chunk, tiles - start), pieces = (count + kTilesOfPiece - 1) / kTilesOfPiece;
    resdet::for_pieces(pieces, [&](int64_t i) {
      const int64_t at = i * kTilesOfPiece, end = std::min(count, at + kTilesOfPiece);
      transform_input(from, elements(maps), start + at, start + end, elements(factors) + at * from.channels,
                      chunk * from.channels);
    });
    multiply(factors, weights, products);
    resdet::for_pieces(pieces, [&](int64_t i) {
      const int64_t at = i * kTilesOfPiece, end = std::min(count, at + kTilesOfPiece);
      transform_output(to, elements(products) + at * outputs, chunk * outputs, elements(shifts), other, relu,
                       start + at, start + end, elements(result));
    });
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) { m.impl("winograd", TORCH_BOX(&winograd)); }
