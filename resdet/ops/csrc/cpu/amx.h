// Convolutions in bfloat16 on the tile unit (AMX) of newer x86-64 processors.
//
// All maps are channels-last: (N, H, W, C). A grid lays the maps of a batch out as one long line of pixels, row below
// row, image below image, with one column and one row of zeros between neighbours for a 3×3 kernel. Each tap of the
// kernel is then one shift along the line, and whatever the maps' size, sixteen pixels at a time fill a tile.

#pragma once

#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define RESDET_AMX 1
#endif

namespace resdet {

struct Grid {
  int64_t images, height, width;  // of the maps at stride 1
  int64_t kernel;                 // 1 or 3

  int64_t pad() const { return kernel / 2; }
  int64_t pitch() const { return width + pad(); }               // pixels of a row
  int64_t image_rows() const { return height + pad(); }         // the row of zeros comes first
  int64_t rows() const { return images * image_rows(); }
};

// Some rows of a grid, the work of one thread at a time.
struct Rows {
  int64_t first, last;
};

namespace amx {

constexpr int64_t kTile = 16;    // rows of a tile, and its columns in float
constexpr int64_t kPairs = 32;   // columns of a tile in bfloat16
constexpr int64_t kTileSize = kTile * kPairs;
constexpr int64_t kTileSums = kTile * kTile;

// Whether the processor has the tile unit and Linux lets this process use it.
bool available();

// Steps of 32 products that a row of the kernel takes; the last one may reach into the next pixel, whose weights are 0.
inline int64_t steps(const Grid& grid, int64_t inputs) { return (grid.kernel * inputs + kPairs - 1) / kPairs; }

// The weights of 16 outputs in row `ky` of the kernel, as `convolve` wants them.
//   weights: (outputs, kernel, kernel, inputs)
//   transposed: of the convolution that gives the gradient of the input; `block` then counts the inputs in sixteens
//   packed: (steps, 16, 32)
void pack(const Grid& grid, const float* weights, int64_t outputs, int64_t inputs, bool transposed, int64_t block,
          int64_t ky, bfloat16* packed);

// Elements of bfloat16 that `convolve` and `weight_gradient` need for so many rows.
int64_t convolve_workspace(const Grid& grid, int64_t rows, int64_t inputs, int64_t stride);
int64_t weight_gradient_workspace(const Grid& grid, int64_t rows, int64_t inputs, int64_t outputs);

// Convolve some rows of a grid.
//   map: (N, ceil(H / dilation), ceil(W / dilation), inputs), which lies in the grid with zeros between
//   weights: (outputs / 16, kernel, steps, 16, 32): tiles of pairs of products
//   result: (N, ceil(H / stride), ceil(W / stride), outputs)
void convolve(const Grid& grid, Rows rows, const bfloat16* map, int64_t inputs, int64_t dilation,
              const bfloat16* weights, int64_t outputs, int64_t stride, bfloat16* result, bfloat16* workspace);

// Add some rows' share of the gradient of the weights from input channel `first` on to `sums`.
//   map: (N, H, W, all_inputs); gradient: (N, ceil(H / dilation), ceil(W / dilation), outputs)
//   sums: (kernel, kernel, inputs / 16, outputs / 16, 16, 16)
void weight_gradient(const Grid& grid, Rows rows, const bfloat16* map, int64_t all_inputs, int64_t first,
                     int64_t inputs, const bfloat16* gradient, int64_t outputs, int64_t dilation, float* sums,
                     bfloat16* workspace);

}  // namespace amx
}  // namespace resdet
