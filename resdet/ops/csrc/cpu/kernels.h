// The loops of the operators on a CPU, compiled once for each instruction set (see isa.h).
//
// Shapes: N images, C channels, (H, W) the feature map, R regions, S bins along each side, P of them computed.
// Maps and outputs are channels-last: (N, H, W, C) and (R, P, P, C). Nothing here allocates or knows of torch.

#pragma once

#include <cstdint>

namespace resdet {

struct bfloat16 {
  uint16_t bits;
};

#ifdef __CUDACC__
#define RESDET_HOST_DEVICE __host__ __device__
#else
#define RESDET_HOST_DEVICE
#endif

constexpr int64_t kMaxBins = 256;      // along a side: R-CNN warps regions to 227 pixels
constexpr int64_t kMaxSamples = 1024;  // along a side of a bin

// A pooling of R regions from N maps, which may be one level of several.
template <typename A>
struct Regions {
  const A* boxes;          // (R, 4) x1, y1, x2, y2 in pixels of the image
  const int64_t* image;    // (R,)
  int64_t count;           // R
  int64_t channels, height, width;
  int64_t bins;            // S
  int64_t stride;          // every stride-th bin is computed
  int64_t pooled;          // P = ceil(S / stride)
  A scale;                 // cells per pixel
  int64_t sampling_ratio;  // of RoI align: samples along each side of a bin; 0: one for each cell it spans
  bool aligned;            // of RoI align: cell centres at half-integers
  const int64_t* level;    // of RoI align: (R,) the level of each region, or null
  int64_t own_level;       // these maps'; regions of other levels are passed over
};

template <typename A>
RESDET_HOST_DEVICE inline bool is_of_level(const Regions<A>& regions, int64_t r) {
  return regions.level == nullptr || regions.level[r] == regions.own_level;
}

// Cells of working memory that RoI align needs for `regions`.
template <typename A>
int64_t align_workspace(const Regions<A>& regions) {
  return regions.pooled * (regions.height + regions.width);
}

// Maps (N, H, W, C) in tiles of 4×4 pixels, those at the right and at the bottom being cut off; C comes in sixteens.
struct Maps {
  int64_t images, height, width, channels;

  int64_t tile_rows() const { return (height + 3) / 4; }
  int64_t tile_columns() const { return (width + 3) / 4; }
  int64_t tiles() const { return images * tile_rows() * tile_columns(); }
};

#define RESDET_DECLARE(ISA)                                                                                    \
  namespace ISA {                                                                                              \
  template <typename T, typename A>                                                                            \
  void align_forward(const Regions<A>&, const T* maps, T* pooled, A* workspace, int64_t first, int64_t last);  \
  template <typename T, typename A>                                                                            \
  void align_backward(const Regions<A>&, const T* gradient, A* maps_gradient, A* workspace,                    \
                      int64_t first_channel, int64_t last_channel);                                            \
  template <typename T, typename A>                                                                            \
  void pool_forward(const Regions<A>&, const T* maps, T* pooled, int32_t* cells, int64_t first, int64_t last); \
  template <typename T, typename A>                                                                            \
  bool pool_backward(const Regions<A>&, const T* gradient, const int32_t* cells, A* maps_gradient,             \
                     int64_t first_channel, int64_t last_channel);                                             \
  template <typename T, typename A>                                                                            \
  void channel_sums(const T* gradient, const T* output, const T* x, const A* pivot, const A* scale,            \
                    const A* shift, int64_t rows, int64_t channels, double* sums);                             \
  template <typename T, typename A>                                                                            \
  void affine(const T* x, const T* added, const A* scale, const A* shift, bool relu, int64_t rows,             \
              int64_t channels, T* y);                                                                         \
  template <typename T, typename A>                                                                            \
  void affine_gradient(const T* gradient, const T* output, const T* x, const A* scale, const A* shift,         \
                       const A* slope, const A* offset, int64_t rows, int64_t channels, T* x_gradient,         \
                       T* added_gradient);                                                                     \
  template <typename A>                                                                                        \
  void align_quantized(const Regions<A>&, const uint8_t* maps, A zero, A factor, const A* offset,              \
                       uint8_t* pooled, A* workspace, int64_t first, int64_t last);                            \
  template <typename T>                                                                                        \
  void quantize(const T* x, float factor, float zero, int64_t count, uint8_t* y);                              \
  template <typename T, typename A>                                                                            \
  void cell_means(const T* x, int64_t cells, int64_t channels, A* means);                                      \
  template <typename T, typename A>                                                                            \
  void max_pool_row(const T* map, int64_t height, int64_t width, int64_t channels, int64_t y, T* row);         \
  template <typename T>                                                                                        \
  void winograd_input(const Maps& maps, const T* x, int64_t first, int64_t last, float* terms, int64_t step);  \
  template <typename T>                                                                                        \
  void winograd_output(const Maps& maps, const float* terms, int64_t step, const float* bias, const T* added,  \
                       bool relu, int64_t first, int64_t last, T* y);                                          \
  template <typename T>                                                                                        \
  void winograd_gradient(const Maps& maps, const T* gradient, int64_t first, int64_t last, float* terms,       \
                         int64_t step);                                                                        \
  void winograd_filters(const float* filters, int64_t channels, bool turned, float* terms, int64_t step);      \
  void winograd_filters_gradient(const float* terms, int64_t step, int64_t channels, float* filters);          \
  template <typename A>                                                                                        \
  bool overlaps_any(const A* box, A area, const A* const* kept, int64_t count, A threshold);                   \
  }

RESDET_DECLARE(base)
#if defined(__x86_64__) && defined(__GNUC__)
RESDET_DECLARE(avx2)
RESDET_DECLARE(avx512)
#endif

constexpr int64_t kLanes = 16;  // boxes that `overlaps_any` tests at a time; its lists are padded to a multiple

}  // namespace resdet
