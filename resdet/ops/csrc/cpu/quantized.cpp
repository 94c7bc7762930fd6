// Maps of whole numbers, and means over the cells of maps.

#include <torch/csrc/stable/library.h>

#include "dispatch.h"
#include "isa.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kPiece = 1 << 16;  // numbers that a thread takes at a time

// (N, C, H, W) or (R, C), of the same layout if its numbers lie side by side → x / scale + zero as uint8
Tensor quantize(const Tensor& x, double scale, int64_t zero) {
  const Tensor values = x.dim() == 4 ? resdet::channels_last(x) : torch::stable::contiguous(x);
  const Tensor result = x.dim() == 4
                            ? resdet::new_maps(x, resdet::shape_of(x), ScalarType::Byte)
                            : torch::stable::empty(resdet::shape_of(x), ScalarType::Byte, std::nullopt, x.device());
  const auto run = [&](auto t) {
    using T = decltype(t);
    const auto kernel = RESDET_BEST(quantize<T>);
    const T* from = static_cast<const T*>(values.data_ptr());
    uint8_t* to = static_cast<uint8_t*>(result.data_ptr());
    const float factor = static_cast<float>(1 / scale);
    resdet::for_pieces((x.numel() + kPiece - 1) / kPiece, [&](int64_t i) {
      const int64_t count = std::min(kPiece, x.numel() - i * kPiece);
      kernel(from + i * kPiece, factor, static_cast<float>(zero), count, to + i * kPiece);
    });
  };
  if (x.scalar_type() == ScalarType::BFloat16) {
    run(resdet::bfloat16());
  } else {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "float32 and bfloat16 can be quantized.");
    run(float());
  }
  return result;
}

// (N, C, H, W) → (N, C), float64 for float64 and float32 for everything else
Tensor cell_means(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(2) * x.size(3) > 0, "The maps must be (N, C, H, W), with cells.");
  const Tensor maps = resdet::channels_last(x);
  const int64_t channels = x.size(1), cells = x.size(2) * x.size(3);
  Tensor means;
  const auto run = [&](auto t, auto s) {
    using T = decltype(t);
    using A = decltype(s);
    means = torch::stable::empty({x.size(0), channels}, resdet::type_of<A>(), std::nullopt, x.device());
    const auto kernel = RESDET_BEST(cell_means<T, A>);
    const T* from = static_cast<const T*>(maps.data_ptr());
    A* to = static_cast<A*>(means.data_ptr());
    torch::stable::parallel_for(0, x.size(0), 1, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) kernel(from + n * cells * channels, cells, channels, to + n * channels);
    });
  };
  if (x.scalar_type() == ScalarType::Byte) {
    run(uint8_t(), float());
  } else {
    resdet::dispatch(x.scalar_type(), run);
  }
  return means;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resdet, CPU, m) {
  m.impl("quantize", TORCH_BOX(&quantize));
  m.impl("cell_means", TORCH_BOX(&cell_means));
}
