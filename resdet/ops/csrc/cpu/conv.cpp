// Convolutions of 1×1 and 3×3 in bfloat16, and their gradients, where the processor has a tile unit.

#include <torch/csrc/stable/library.h>

#include <cstring>

#include "amx.h"
#include "dispatch.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

bool has_tiles() {
#ifdef RESDET_AMX
  return resdet::amx::available();
#else
  return false;
#endif
}

#ifdef RESDET_AMX

using resdet::bfloat16;
using resdet::Grid;
using resdet::new_maps;
using resdet::Rows;
namespace amx = resdet::amx;

constexpr int64_t kStripBytes = 1 << 18;  // of the maps that one thread works on at a time: a part of its cache
constexpr int64_t kChunk = 64;            // input channels of the weights' gradient that are one piece of work
constexpr int64_t kPieces = 16;           // of work, whatever the number of threads, so that the sums have one order

bfloat16* scratch(int64_t elements) {
  static thread_local std::vector<uint16_t> memory;
  if (static_cast<int64_t>(memory.size()) < elements + 32) memory.resize(elements + 32);
  const auto address = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
  return reinterpret_cast<bfloat16*>(address);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

const bfloat16* elements(const Tensor& x) { return static_cast<const bfloat16*>(x.data_ptr()); }

void check_maps(const Tensor& x) {
  STD_TORCH_CHECK(has_tiles(), "This processor has no tile unit.");
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::BFloat16, "The maps must be (N, C, H, W) in bfloat16.");
}

void check_kernel(int64_t outputs, int64_t inputs, int64_t kernel, int64_t stride) {
  STD_TORCH_CHECK(kernel == 1 || kernel == 3, "The kernel must be 1×1 or 3×3.");
  STD_TORCH_CHECK(outputs % 16 == 0 && inputs % 16 == 0, "Channels must come in sixteens.");
  STD_TORCH_CHECK(stride >= 1, "The stride must be at least 1.");
}

// The maps have the channels of the weights' dimension `channels`.
void check(const Tensor& maps, const Tensor& weight, int64_t channels, int64_t stride) {
  check_maps(maps);
  STD_TORCH_CHECK(weight.dim() == 4 && weight.scalar_type() == ScalarType::Float && weight.size(2) == weight.size(3),
                  "The weights must be (K, C, k, k) in float32.");
  STD_TORCH_CHECK(maps.size(1) == weight.size(channels), "The maps' channels are not those of the weights.");
  check_kernel(weight.size(0), weight.size(1), weight.size(2), stride);
}

// The gradient of a convolution's result has its shape.
void check_gradient(const Tensor& gradient, int64_t images, int64_t height, int64_t width, int64_t stride) {
  STD_TORCH_CHECK(gradient.size(0) == images && gradient.size(2) == ceil_div(height, stride) &&
                      gradient.size(3) == ceil_div(width, stride),
                  "The gradient must have the shape of the convolution's result.");
}

// (outputs, inputs, k, k) float32 → (outputs / 16, k, steps, 16, 32), as amx.h wants it. Transposed: the weights
// that the gradient of the input is a convolution with.
std::vector<bfloat16> pack(const Tensor& weight, const Grid& grid, bool transposed) {
  const Tensor laid = resdet::channels_last(weight);
  const int64_t outputs = weight.size(0), inputs = weight.size(1), kernel = grid.kernel;
  const int64_t blocks = (transposed ? inputs : outputs) / 16;
  const int64_t size = amx::steps(grid, transposed ? outputs : inputs) * amx::kTileSize;
  std::vector<bfloat16> packed(blocks * kernel * size);
  resdet::for_pieces(blocks * kernel, [&](int64_t i) {
    amx::pack(grid, static_cast<const float*>(laid.data_ptr()), outputs, inputs, transposed, i / kernel, i % kernel,
              packed.data() + i * size);
  });
  return packed;
}

// Rows of a grid to be worked on at a time.
int64_t rows_at_a_time(const Grid& grid, int64_t channels, int64_t pieces) {
  const int64_t fitting = kStripBytes / (2 * channels * grid.pitch());
  return std::max<int64_t>(1, std::min(fitting, ceil_div(grid.rows(), pieces)));
}

Tensor convolve(const Tensor& x, const Tensor& weight, const Grid& grid, int64_t dilation, int64_t stride,
                bool transposed) {
  const int64_t inputs = weight.size(transposed ? 0 : 1), outputs = weight.size(transposed ? 1 : 0);
  Tensor result = new_maps(x, {grid.images, outputs, ceil_div(grid.height, stride), ceil_div(grid.width, stride)},
                           ScalarType::BFloat16);
  if (result.numel() == 0 || inputs == 0) return torch::stable::zero_(result);
  const Tensor maps = resdet::channels_last(x);
  const auto weights = pack(weight, grid, transposed);
  const int64_t rows = rows_at_a_time(grid, inputs, 16 * torch::stable::get_num_threads());
  resdet::for_pieces(ceil_div(grid.rows(), rows), [&](int64_t i) {
    amx::convolve(grid, {i * rows, std::min(grid.rows(), (i + 1) * rows)}, elements(maps), inputs, dilation,
                  weights.data(), outputs, stride, static_cast<bfloat16*>(result.data_ptr()),
                  scratch(amx::convolve_workspace(grid, rows, inputs, stride)));
  });
  return result;
}

// (N, C, H, W) bfloat16, (K, C, k, k) float32 → (N, K, ceil(H / stride), ceil(W / stride)) bfloat16
Tensor conv2d(const Tensor& x, const Tensor& weight, int64_t stride) {
  check(x, weight, 1, stride);
  return convolve(x, weight, {x.size(0), x.size(2), x.size(3), weight.size(2)}, 1, stride, false);
}

// The gradient of an input of (height, width).
Tensor conv2d_input_gradient(const Tensor& gradient, const Tensor& weight, int64_t height, int64_t width,
                             int64_t stride) {
  check(gradient, weight, 0, stride);
  check_gradient(gradient, gradient.size(0), height, width, stride);
  return convolve(gradient, weight, {gradient.size(0), height, width, weight.size(2)}, stride, 1, true);
}

// The gradient of (K, C, kernel, kernel) weights, float32.
Tensor conv2d_weight_gradient(const Tensor& gradient, const Tensor& x, int64_t kernel, int64_t stride) {
  check_maps(x);
  check_maps(gradient);
  check_kernel(gradient.size(1), x.size(1), kernel, stride);
  check_gradient(gradient, x.size(0), x.size(2), x.size(3), stride);
  const Tensor from = resdet::channels_last(gradient), maps = resdet::channels_last(x);
  const int64_t inputs = x.size(1), outputs = gradient.size(1), taps = kernel * kernel;
  Tensor result = new_maps(x, {outputs, inputs, kernel, kernel}, ScalarType::Float);
  if (result.numel() == 0 || x.numel() == 0) return torch::stable::zero_(result);
  const Grid grid{x.size(0), x.size(2), x.size(3), kernel};
  const int64_t chunks = ceil_div(inputs, kChunk), parts = std::max<int64_t>(1, kPieces / chunks);
  const int64_t part_rows = ceil_div(grid.rows(), parts), size = taps * inputs * outputs;
  const int64_t rows = rows_at_a_time(grid, kChunk + outputs, parts);
  Tensor sums = torch::stable::empty({parts, size}, ScalarType::Float, std::nullopt, x.device());
  float* all = static_cast<float*>(sums.data_ptr());
  resdet::for_pieces(parts * chunks, [&](int64_t i) {
    const int64_t part = i / chunks, channel = i % chunks * kChunk;
    const int64_t channels = std::min(kChunk, inputs - channel);
    float* piece = all + part * size + channel * taps * outputs;
    std::memset(piece, 0, channels * taps * outputs * sizeof(float));
    bfloat16* workspace = scratch(amx::weight_gradient_workspace(grid, rows, kChunk, outputs));
    const int64_t end = std::min(grid.rows(), (part + 1) * part_rows);
    for (int64_t row = part * part_rows; row < end; row += rows) {
      amx::weight_gradient(grid, {row, std::min(end, row + rows)}, elements(maps), inputs, channel, channels,
                           elements(from), outputs, stride, piece, workspace);
    }
  });
  // (parts, chunk, k, k, channels / 16, outputs / 16, 16, 16) → (outputs, k, k, inputs)
  float* to = static_cast<float*>(result.data_ptr());
  resdet::for_pieces(taps * inputs / 16, [&](int64_t i) {
    const int64_t tap = i / (inputs / 16), input = i % (inputs / 16) * 16;
    const int64_t channel = input / kChunk * kChunk, channels = std::min(kChunk, inputs - channel);
    const int64_t at = channel * taps * outputs + (tap * channels + input - channel) * outputs;
    std::vector<float> total(16 * outputs);
    for (int64_t part = 0; part < parts; ++part) {
      const float* piece = all + part * size + at;
      for (int64_t j = 0; j < 16 * outputs; ++j) total[j] += piece[j];
    }
    for (int64_t output = 0; output < outputs; ++output) {
      const float* column = total.data() + output / 16 * 256 + output % 16;
      for (int64_t c = 0; c < 16; ++c) to[(output * taps + tap) * inputs + input + c] = column[c * 16];
    }
  });
  return result;
}

#else

constexpr const char* kNone = "These operators were built for a processor without a tile unit.";
Tensor conv2d(const Tensor&, const Tensor&, int64_t) { STD_TORCH_CHECK(false, kNone); }
Tensor conv2d_input_gradient(const Tensor&, const Tensor&, int64_t, int64_t, int64_t) { STD_TORCH_CHECK(false, kNone); }
Tensor conv2d_weight_gradient(const Tensor&, const Tensor&, int64_t, int64_t) { STD_TORCH_CHECK(false, kNone); }

#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_input_gradient", TORCH_BOX(&conv2d_input_gradient));
  m.impl("conv2d_weight_gradient", TORCH_BOX(&conv2d_weight_gradient));
}
STABLE_TORCH_LIBRARY_IMPL(resdet, CompositeExplicitAutograd, m) { m.impl("has_tiles", TORCH_BOX(&has_tiles)); }
