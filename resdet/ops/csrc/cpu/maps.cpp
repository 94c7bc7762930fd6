// What comes before, between and after the convolutions of a network that only detects: pixels on their scale, maps on
// a grid of whole numbers, maxima of windows, means over all cells.

#include <torch/csrc/stable/library.h>

#include "dispatch.h"
#include "isa.h"

namespace {

using resdet::shape_of;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kPiece = 1 << 16;  // numbers that a thread takes at a time

// (N, C, H, W) or (R, C), of the same layout if its numbers lie side by side → x / scale + zero as uint8
Tensor quantize(const Tensor& x, double scale, int64_t zero) {
  const Tensor values = x.dim() == 4 ? resdet::channels_last(x) : torch::stable::contiguous(x);
  const Tensor result = x.dim() == 4
                            ? resdet::new_maps(x, shape_of(x), ScalarType::Byte)
                            : torch::stable::empty(shape_of(x), ScalarType::Byte, std::nullopt, x.device());
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

// (N, C, H, W) → (N, C, ⌈H/2⌉, ⌈W/2⌉): maxima of windows of 3×3, at stride 2
Tensor max_pool(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, "The maps must be (N, C, H, W).");
  const Tensor maps = resdet::channels_last(x);
  const int64_t channels = x.size(1), height = x.size(2), width = x.size(3);
  const int64_t rows = (height + 1) / 2, step = (width + 1) / 2 * channels;
  const Tensor result = resdet::new_maps(x, {x.size(0), channels, rows, (width + 1) / 2}, x.scalar_type());
  const auto run = [&](auto t, auto s) {
    using T = decltype(t);
    const auto kernel = RESDET_BEST(max_pool_row<T, decltype(s)>);
    const T* from = static_cast<const T*>(maps.data_ptr());
    T* to = static_cast<T*>(result.data_ptr());
    torch::stable::parallel_for(0, x.size(0) * rows, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        kernel(from + i / rows * height * width * channels, height, width, channels, i % rows, to + i * step);
      }
    });
  };
  if (x.scalar_type() == ScalarType::Byte) {
    run(uint8_t(), uint8_t());
  } else {
    resdet::dispatch(x.scalar_type(), run);
  }
  return result;
}

// (N, 3, H, W) uint8, (3, 256), (N, 2) → (N, 3, height, width) of the table's type: each pixel's entries, and zero, or
// 128 of uint8, beyond an image's size
Tensor look_up(const Tensor& images, const Tensor& table, const Tensor& sizes, int64_t height, int64_t width) {
  STD_TORCH_CHECK(images.dim() == 4 && images.size(1) == 3 && images.scalar_type() == ScalarType::Byte,
                  "The images must be (N, 3, H, W) uint8.");
  STD_TORCH_CHECK(shape_of(table) == (std::vector<int64_t>{3, 256}) && table.is_contiguous(),
                  "The table must be (3, 256), contiguous.");
  STD_TORCH_CHECK(shape_of(sizes) == (std::vector<int64_t>{images.size(0), 2}) && sizes.is_contiguous() &&
                      sizes.scalar_type() == ScalarType::Long,
                  "The sizes must be (N, 2) int64, contiguous.");
  const int64_t* known = static_cast<const int64_t*>(sizes.data_ptr());
  for (int64_t n = 0; n < images.size(0); ++n) {
    STD_TORCH_CHECK(known[2 * n] >= 0 && known[2 * n] <= std::min(images.size(2), height) && known[2 * n + 1] >= 0 &&
                        known[2 * n + 1] <= std::min(images.size(3), width),
                    "An image is larger than what it lies in.");
  }
  const Tensor result = resdet::new_maps(images, {images.size(0), 3, height, width}, table.scalar_type());
  const auto strides = images.strides();
  const int64_t per_image = strides[0], per_channel = strides[1], per_row = strides[2], per_column = strides[3];
  const uint8_t* from = static_cast<const uint8_t*>(images.data_ptr());
  const auto run = [&](auto t, auto empty) {
    using T = decltype(t);
    const T* entries = static_cast<const T*>(table.data_ptr());
    T* to = static_cast<T*>(result.data_ptr());
    torch::stable::parallel_for(0, images.size(0) * height, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t n = i / height, y = i % height;
        const int64_t filled = y < known[2 * n] ? known[2 * n + 1] : 0;
        const uint8_t* pixel = from + n * per_image + y * per_row;
        T* out = to + i * width * 3;
        for (int64_t x = 0; x < filled; ++x, pixel += per_column, out += 3) {
          const T a = entries[pixel[0]], b = entries[256 + pixel[per_channel]], c = entries[512 + pixel[2 * per_channel]];
          out[0] = a;  // all of them read before any is written, which could be one of the others
          out[1] = b;
          out[2] = c;
        }
        for (T* const end = to + (i + 1) * width * 3; out < end; ++out) *out = empty;
      }
    });
  };
  if (table.scalar_type() == ScalarType::Byte) {
    run(uint8_t(), uint8_t(128));
  } else if (table.scalar_type() == ScalarType::BFloat16) {
    run(resdet::bfloat16(), resdet::bfloat16{0});
  } else {
    STD_TORCH_CHECK(table.scalar_type() == ScalarType::Float, "The table must be uint8, bfloat16 or float32.");
    run(float(), 0.0f);
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
  m.impl("max_pool", TORCH_BOX(&max_pool));
  m.impl("look_up", TORCH_BOX(&look_up));
  m.impl("cell_means", TORCH_BOX(&cell_means));
}
