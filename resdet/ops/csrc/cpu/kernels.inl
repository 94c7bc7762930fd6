// The bodies of kernels.h, in the namespace RESDET_ISA. No functions of the standard library: a copy of one that was
// compiled here for a newer processor could be the one that the linker keeps for all.

#include "kernels.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace resdet {
namespace RESDET_ISA {
namespace {

constexpr int64_t kBlock = 64;  // channels at a time: four vectors of AVX-512

typedef float __attribute__((may_alias)) aliasing_float;

inline void load(const double* from, double* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void load(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void load(const bfloat16* from, float* to, int64_t n) {
  uint32_t* bits = reinterpret_cast<uint32_t*>(reinterpret_cast<aliasing_float*>(to));
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t wide = static_cast<uint32_t>(from[i].bits) << 16;
    __builtin_memcpy(bits + i, &wide, 4);
  }
}
inline void store(const double* from, double* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void store(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void store(const float* from, bfloat16* to, int64_t n) {  // to the nearest, ties to even
  for (int64_t i = 0; i < n; ++i) {
    uint32_t wide;
    __builtin_memcpy(&wide, from + i, 4);
    const bool nan = (wide & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    to[i].bits = static_cast<uint16_t>(nan ? 0x7fc0u : rounded);
  }
}

inline void load(const uint8_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}
inline void store(const float* from, uint8_t* to, int64_t n) {  // to the nearest from 0 to 255, ties to even; NaN is 0
  for (int64_t i = 0; i < n; ++i) {
    const float low = from[i] > 0.0f ? from[i] : 0.0f;
    const float rounded = (low < 255.0f ? low : 255.0f) + 8388608.0f;  // 2²³, whose neighbours are whole numbers
    uint32_t bits;
    __builtin_memcpy(&bits, &rounded, 4);
    to[i] = static_cast<uint8_t>(bits);
  }
}

// Vectors: sixteen floats or eight doubles, for the loops that go through maps in the order of memory

#pragma GCC diagnostic ignored "-Wpsabi"  // nothing below is called from another file with these as arguments

template <typename A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(64)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(64)));
};
template <typename A>
using Vector = typename VectorOf<A>::type;
template <typename A>
constexpr int64_t kWidth = 64 / sizeof(A);

typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(64)));

inline __attribute__((always_inline)) Vector<float> widen(const float* from) {
  Vector<float> x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}
inline __attribute__((always_inline)) Vector<double> widen(const double* from) {
  Vector<double> x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}
inline __attribute__((always_inline)) Vector<float> widen(const bfloat16* from) {
#ifdef __AVX512F__  // one instruction, of which GCC makes five from what is below
  const Words words = (Words)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#else
  Halves bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  const Words words = __builtin_convertvector(bits, Words);
#endif
  return (Vector<float>)(words << 16);
}
inline __attribute__((always_inline)) void narrow(const Vector<float>& x, float* to) {
  __builtin_memcpy(to, &x, sizeof(x));
}
inline __attribute__((always_inline)) void narrow(const Vector<double>& x, double* to) {
  __builtin_memcpy(to, &x, sizeof(x));
}
inline __attribute__((always_inline)) void narrow(const Vector<float>& x, bfloat16* to) {  // as `store` rounds
  const Words bits = (Words)x;
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Halves halves = __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? Words{} + 0x7fc0u : rounded, Halves);
  __builtin_memcpy(to, &halves, sizeof(halves));
}

// The first n numbers of a vector, which is a constant for whole ones.
template <typename A, typename T>
inline __attribute__((always_inline)) Vector<A> load_vector(const T* from, int64_t n = kWidth<A>) {
  if (n == kWidth<A>) return widen(from);
  T some[kWidth<A>] = {};
  for (int64_t k = 0; k < n; ++k) some[k] = from[k];
  return widen(some);
}
template <typename A, typename T>
inline __attribute__((always_inline)) void store_vector(const Vector<A>& x, T* to, int64_t n = kWidth<A>) {
  if (n == kWidth<A>) return narrow(x, to);
  T some[kWidth<A>];
  narrow(x, some);
  for (int64_t k = 0; k < n; ++k) to[k] = some[k];
}

#define RESDET_FUNCTION inline
#include "../geometry.inl"

// RoI align

template <typename A>
struct Tables {
  A *y, *x;  // (P, H) and (P, W)
  int64_t low_y[kMaxBins], count_y[kMaxBins], low_x[kMaxBins], count_x[kMaxBins];
};

// Fill the tables of a region. False if every bin is zero.
template <typename A>
bool fill(Tables<A>& tables, const Regions<A>& regions, int64_t r, A* workspace) {
  const Cells<A> cells = align_cells(regions, r);
  tables.y = workspace;
  tables.x = workspace + regions.pooled * regions.height;
  int64_t samples_y, samples_x;
  if (!align_samples(regions, cells, samples_y, samples_x)) return false;
  const A bin_y = cells.size_y / regions.bins, bin_x = cells.size_x / regions.bins;
  for (int64_t p = 0; p < regions.pooled; ++p) {
    A* y = tables.y + p * regions.height;
    A* x = tables.x + p * regions.width;
    const int64_t bin = p * regions.stride;
    fill_bin(y, tables.low_y[p], tables.count_y[p], cells.start_y, bin_y, bin, samples_y, regions.height);
    fill_bin(x, tables.low_x[p], tables.count_x[p], cells.start_x, bin_x, bin, samples_x, regions.width);
  }
  return true;
}

// Σ weight · cell over the cells of a bin, for `n` channels from `c` on; n is a constant for whole blocks.
template <typename T, typename A>
inline __attribute__((always_inline)) void sum_bin(const Regions<A>& regions, const Tables<A>& tables, const T* map,
                                                   int64_t py, int64_t px, int64_t c, int64_t n, A* sum) {
  for (int64_t k = 0; k < n; ++k) sum[k] = 0;
  const A *weights_y = tables.y + py * regions.height, *weights_x = tables.x + px * regions.width;
  for (int64_t i = 0; i < tables.count_y[py]; ++i) {
    if (weights_y[i] < 0) continue;
    const T* row = map + (tables.low_y[py] + i) * regions.width * regions.channels;
    for (int64_t j = 0; j < tables.count_x[px]; ++j) {
      if (weights_x[j] < 0) continue;
      const A weight = weights_y[i] * weights_x[j];
      A values[kBlock];
      load(row + (tables.low_x[px] + j) * regions.channels + c, values, n);
      for (int64_t k = 0; k < n; ++k) sum[k] += weight * values[k];
    }
  }
}

// The sum of a bin's weights.
template <typename A>
A weight_of(const Regions<A>& regions, const Tables<A>& tables, int64_t py, int64_t px) {
  A y = 0, x = 0;
  for (int64_t i = 0; i < tables.count_y[py]; ++i) {
    const A weight = tables.y[py * regions.height + i];
    y += weight > 0 ? weight : A(0);
  }
  for (int64_t j = 0; j < tables.count_x[px]; ++j) {
    const A weight = tables.x[px * regions.width + j];
    x += weight > 0 ? weight : A(0);
  }
  return y * x;
}

// Call write(sum, weight, c, n, out) for each bin of the regions [first, last), 64 channels at a time: what to make of
// the weighted sums of a bin's cells, and where to put it.
template <typename T, typename A, typename F>
inline __attribute__((always_inline)) void for_bins(const Regions<A>& regions, const T* maps, T* pooled, A* workspace,
                                                    int64_t first, int64_t last, bool weighs, const F& write) {
  const int64_t channels = regions.channels, bins = regions.pooled;
  Tables<A> tables;
  for (int64_t r = first; r < last; ++r) {
    if (!is_of_level(regions, r)) continue;
    T* out = pooled + r * bins * bins * channels;
    const bool any = fill(tables, regions, r, workspace);
    const T* map = maps + regions.image[r] * regions.height * regions.width * channels;
    if (!any) {
      for (int64_t p = 0; p < bins; ++p) tables.count_y[p] = tables.count_x[p] = 0;
    }
    for (int64_t py = 0; py < bins; ++py) {
      for (int64_t px = 0; px < bins; ++px, out += channels) {
        const A weight = weighs ? weight_of(regions, tables, py, px) : A(1);
        A sum[kBlock];
        int64_t c = 0;
        for (; c + kBlock <= channels; c += kBlock) {
          sum_bin(regions, tables, map, py, px, c, kBlock, sum);
          write(sum, weight, c, kBlock, out + c);
        }
        if (c < channels) {
          sum_bin(regions, tables, map, py, px, c, channels - c, sum);
          write(sum, weight, c, channels - c, out + c);
        }
      }
    }
  }
}

}  // namespace

template <typename T, typename A>
void align_forward(const Regions<A>& regions, const T* maps, T* pooled, A* workspace, int64_t first, int64_t last) {
  for_bins(regions, maps, pooled, workspace, first, last, false,
           [](const A* sum, A, int64_t, int64_t n, T* out) { store(sum, out, n); });
}

// A map's number q stands for q − zero, and what is beyond the map for 0.
template <typename A>
void align_quantized(const Regions<A>& regions, const uint8_t* maps, A zero, A factor, const A* offset,
                     uint8_t* pooled, A* workspace, int64_t first, int64_t last) {
  for_bins(regions, maps, pooled, workspace, first, last, zero != 0,
           [=](const A* sum, A weight, int64_t c, int64_t n, uint8_t* out) {
             const A missing = zero == 0 ? A(0) : zero * weight;
             A values[kBlock];
             for (int64_t k = 0; k < n; ++k) values[k] = (sum[k] - missing) * factor + offset[c + k];
             store(values, out, n);
           });
}

template <typename T, typename A>
void align_backward(const Regions<A>& regions, const T* gradient, A* maps_gradient, A* workspace,
                    int64_t first_channel, int64_t last_channel) {
  const int64_t channels = regions.channels, bins = regions.pooled;
  Tables<A> tables;
  for (int64_t r = 0; r < regions.count; ++r) {
    if (!is_of_level(regions, r) || !fill(tables, regions, r, workspace)) continue;
    A* map = maps_gradient + regions.image[r] * regions.height * regions.width * channels;
    for (int64_t py = 0; py < bins; ++py) {
      const A* weights_y = tables.y + py * regions.height;
      for (int64_t px = 0; px < bins; ++px) {
        const A* weights_x = tables.x + px * regions.width;
        const T* from = gradient + ((r * bins + py) * bins + px) * channels;
        for (int64_t c = first_channel; c < last_channel; c += kBlock) {
          const int64_t n = at_most(kBlock, last_channel - c);
          A values[kBlock];
          load(from + c, values, n);
          for (int64_t i = 0; i < tables.count_y[py]; ++i) {
            if (weights_y[i] < 0) continue;
            A* row = map + ((tables.low_y[py] + i) * regions.width + tables.low_x[px]) * channels + c;
            for (int64_t j = 0; j < tables.count_x[px]; ++j) {
              if (weights_x[j] < 0) continue;
              const A weight = weights_y[i] * weights_x[j];
              A* to = row + j * channels;
              for (int64_t k = 0; k < n; ++k) to[k] += weight * values[k];
            }
          }
        }
      }
    }
  }
}

// RoI pooling

namespace {

// The largest value of a bin and its cell; NaN is larger than any number, as in torch's pooling. An empty bin has 0.
template <typename T, typename A>
inline __attribute__((always_inline)) void max_bin(const Regions<A>& regions, const T* map, const int64_t* range,
                                                   int64_t c, int64_t n, A* best, int32_t* cell) {
  const bool empty = range[0] >= range[1] || range[2] >= range[3];
  for (int64_t k = 0; k < n; ++k) {
    best[k] = empty ? A(0) : -A(__builtin_inf());
    cell[k] = empty ? -1 : static_cast<int32_t>(range[0] * regions.width + range[2]);
  }
  for (int64_t y = range[0]; y < range[1]; ++y) {
    for (int64_t x = range[2]; x < range[3]; ++x) {
      const int32_t here = static_cast<int32_t>(y * regions.width + x);
      A values[kBlock];
      load(map + here * regions.channels + c, values, n);
      for (int64_t k = 0; k < n; ++k) {
        const bool better = (values[k] > best[k]) | (values[k] != values[k]);
        best[k] = better ? values[k] : best[k];
        cell[k] = better ? here : cell[k];
      }
    }
  }
}

}  // namespace

template <typename T, typename A>
void pool_forward(const Regions<A>& regions, const T* maps, T* pooled, int32_t* cells, int64_t first, int64_t last) {
  const int64_t channels = regions.channels, bins = regions.pooled;
  for (int64_t r = first; r < last; ++r) {
    const Cells<A> box = pool_cells(regions, r);
    const T* map = maps + regions.image[r] * regions.height * regions.width * channels;
    for (int64_t py = 0; py < bins; ++py) {
      for (int64_t px = 0; px < bins; ++px) {
        int64_t range[4] = {0, 0, 0, 0};
        if (box.finite) {
          const int64_t s = regions.stride;
          pool_bin(box.start_y, box.size_y, regions.bins, py * s, regions.height, range[0], range[1]);
          pool_bin(box.start_x, box.size_x, regions.bins, px * s, regions.width, range[2], range[3]);
        }
        const int64_t at = ((r * bins + py) * bins + px) * channels;
        A best[kBlock];
        int32_t cell[kBlock];
        for (int64_t c = 0; c < channels; c += kBlock) {
          const int64_t n = at_most(kBlock, channels - c);
          if (n == kBlock) {
            max_bin(regions, map, range, c, kBlock, best, cell);
          } else {
            max_bin(regions, map, range, c, n, best, cell);
          }
          store(best, pooled + at + c, n);
          for (int64_t k = 0; k < n; ++k) cells[at + c + k] = cell[k];
        }
      }
    }
  }
}

// False if a cell is none of the map's.
template <typename T, typename A>
bool pool_backward(const Regions<A>& regions, const T* gradient, const int32_t* cells, A* maps_gradient,
                   int64_t first_channel, int64_t last_channel) {
  const int64_t channels = regions.channels, bins = regions.pooled * regions.pooled;
  const int64_t last_cell = regions.height * regions.width - 1;
  bool known = true;
  for (int64_t r = 0; r < regions.count; ++r) {
    A* map = maps_gradient + regions.image[r] * regions.height * regions.width * channels;
    for (int64_t b = 0; b < bins; ++b) {
      const int64_t at = (r * bins + b) * channels;
      for (int64_t c = first_channel; c < last_channel; c += kBlock) {
        const int64_t n = at_most(kBlock, last_channel - c);
        A values[kBlock];
        load(gradient + at + c, values, n);
        for (int64_t k = 0; k < n; ++k) {
          const int32_t cell = cells[at + c + k];
          known &= cell >= -1 && cell <= last_cell;
          if (cell >= 0 && cell <= last_cell) map[cell * channels + c + k] += values[k];
        }
      }
    }
  }
  return known;
}

// Batch normalisation, over the rows of (rows, channels) matrices

namespace {

// Add a vector's first n numbers to sums in double precision.
inline __attribute__((always_inline)) void add_to(double* sums, const Vector<float>& x, int64_t n) {
  typedef float Half __attribute__((vector_size(32)));
  if (n < kWidth<float>) {
    for (int64_t k = 0; k < n; ++k) sums[k] += x[k];
    return;
  }
  Half halves[2];
  __builtin_memcpy(halves, &x, sizeof(x));
  for (int64_t k = 0; k < 2; ++k) {
    narrow(widen(sums + 8 * k) + __builtin_convertvector(halves[k], Vector<double>), sums + 8 * k);
  }
}
inline __attribute__((always_inline)) void add_to(double* sums, const Vector<double>& x, int64_t n) {
  for (int64_t k = 0; k < n; ++k) sums[k] += x[k];
}

// Call run(at, c, n) for each vector of each row: its first element, its first channel, and how many there are, which is
// a constant for whole vectors.
template <typename A, typename F>
inline __attribute__((always_inline)) void for_vectors(int64_t rows, int64_t channels, const F& run) {
  int64_t at = 0;
  for (int64_t row = 0; row < rows; ++row) {
    int64_t c = 0;
    for (; c + kWidth<A> <= channels; c += kWidth<A>, at += kWidth<A>) run(at, c, kWidth<A>);
    if (c < channels) run(at, c, channels - c);
    at += channels - c;
  }
}

// The same with the channels of CIFAR's networks as a constant, so that their numbers stay in registers.
template <typename A, typename F>
inline __attribute__((always_inline)) void for_rows(int64_t rows, int64_t channels, const F& run) {
  if (channels == kWidth<A>) {
    for_vectors<A>(rows, kWidth<A>, run);
  } else if (channels == 2 * kWidth<A>) {
    for_vectors<A>(rows, 2 * kWidth<A>, run);
  } else {
    for_vectors<A>(rows, channels, run);
  }
}

// Gradients count where the rectified output is not 0: above, or NaN. Instead of an output that is x · scale + shift,
// there is the shift.
template <typename A, typename T>
inline __attribute__((always_inline)) Vector<A> load_masked(const T* gradient, const T* output, const T* x,
                                                            const A* scale, const A* shift, int64_t at, int64_t c,
                                                            int64_t n) {
  const Vector<A> g = load_vector<A>(gradient + at, n);
  if (output) return load_vector<A>(output + at, n) <= 0 ? Vector<A>{} : g;
  if (!shift) return g;
  const Vector<A> y = load_vector<A>(x + at, n) * load_vector<A>(scale + c, n) + load_vector<A>(shift + c, n);
  return y <= 0 ? Vector<A>{} : g;
}

}  // namespace

// Add Σ a and Σ a·(x − pivot) to sums (2, channels), where a is the gradient, where the output is not zero, if there is
// one, or a shift. No gradient stands for x − pivot.
template <typename T, typename A>
void channel_sums(const T* gradient, const T* output, const T* x, const A* pivot, const A* scale, const A* shift,
                  int64_t rows, int64_t channels, double* sums) {
  // Rows that are added in single precision before double takes over; few of wide ones, to read them in their order.
  const int64_t block = channels > 512 ? 8 : channels > 64 ? 16 : 64;
  for (int64_t row = 0; row < rows; row += block) {
    const int64_t end = at_most(row + block, rows);
    for_vectors<A>(1, channels, [&](int64_t, int64_t c, int64_t n) __attribute__((always_inline)) {
      const Vector<A> middle = load_vector<A>(pivot + c, n);
      Vector<A> one{}, two{};
      for (int64_t i = row; i < end; ++i) {
        const int64_t at = i * channels + c;
        const Vector<A> b = load_vector<A>(x + at, n) - middle;
        const Vector<A> a = gradient ? load_masked(gradient, output, x, scale, shift, at, c, n) : b;
        one += a;
        two += a * b;
      }
      add_to(sums + c, one, n);
      add_to(sums + channels + c, two, n);
    });
  }
}

// y = x · scale + shift, plus `added` if there is any, rectified or not.
template <typename T, typename A>
void affine(const T* x, const T* added, const A* scale, const A* shift, bool relu, int64_t rows, int64_t channels,
            T* y) {
  const Vector<A> floor = Vector<A>{} + (relu ? A(0) : -A(__builtin_inf()));
  for_rows<A>(rows, channels, [&](int64_t at, int64_t c, int64_t n) __attribute__((always_inline)) {
    Vector<A> a = load_vector<A>(x + at, n) * load_vector<A>(scale + c, n) + load_vector<A>(shift + c, n);
    if (added) a += load_vector<A>(added + at, n);
    store_vector<A>(a < floor ? floor : a, y + at, n);
  });
}

// The gradient of x where the statistics depend on it: g · scale + x · slope + offset; without x: g · scale. g is the
// gradient where the output is not zero, if there is one, or a shift; it goes to `added_gradient`, if that is wanted.
template <typename T, typename A>
void affine_gradient(const T* gradient, const T* output, const T* x, const A* scale, const A* shift, const A* slope,
                     const A* offset, int64_t rows, int64_t channels, T* x_gradient, T* added_gradient) {
  for_rows<A>(rows, channels, [&](int64_t at, int64_t c, int64_t n) __attribute__((always_inline)) {
    Vector<A> g = load_masked(gradient, output, x, scale, shift, at, c, n);
    if (added_gradient) store_vector<A>(g, added_gradient + at, n);
    g *= load_vector<A>(scale + c, n);
    if (x) g += load_vector<A>(x + at, n) * load_vector<A>(slope + c, n) + load_vector<A>(offset + c, n);
    store_vector<A>(g, x_gradient + at, n);
  });
}

// x / scale + zero in whole numbers
template <typename T>
void quantize(const T* x, float factor, float zero, int64_t count, uint8_t* y) {
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t n = at_most(kBlock, count - i);
    float values[kBlock];
    load(x + i, values, n);
    for (int64_t k = 0; k < n; ++k) values[k] = values[k] * factor + zero;
    store(values, y + i, n);
  }
}

// The mean of each channel over the cells of a map.
template <typename T, typename A>
void cell_means(const T* x, int64_t cells, int64_t channels, A* means) {
  for (int64_t c = 0; c < channels; c += kBlock) {
    const int64_t n = at_most(kBlock, channels - c);
    A sum[kBlock] = {};
    for (int64_t i = 0; i < cells; ++i) {
      A values[kBlock];
      load(x + i * channels + c, values, n);
      for (int64_t k = 0; k < n; ++k) sum[k] += values[k];
    }
    for (int64_t k = 0; k < n; ++k) means[c + k] = sum[k] / static_cast<A>(cells);
  }
}

namespace {

inline void load(const uint8_t* from, uint8_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void store(const uint8_t* from, uint8_t* to, int64_t n) { load(from, to, n); }

// The larger numbers of `best` and of those at `from`; NaN is larger than any.
template <typename T, typename A>
inline __attribute__((always_inline)) void keep_larger(const T* from, int64_t n, A* best) {
  A values[kBlock];
  load(from, values, n);
  for (int64_t k = 0; k < n; ++k) best[k] = (values[k] > best[k]) | (values[k] != values[k]) ? values[k] : best[k];
}

}  // namespace

// Row `y` of the maxima over windows of 3×3 cells, at stride 2, of a map (H, W, C) with a border of one cell.
template <typename T, typename A>
void max_pool_row(const T* map, int64_t height, int64_t width, int64_t channels, int64_t y, T* row) {
  const int64_t top = 2 * y > 0 ? 2 * y - 1 : 0, bottom = at_most(2 * y + 2, height);
  for (int64_t x = 0; x < (width + 1) / 2; ++x) {
    const int64_t left = 2 * x > 0 ? 2 * x - 1 : 0, right = at_most(2 * x + 2, width);
    for (int64_t c = 0; c < channels; c += kBlock) {
      const int64_t n = at_most(kBlock, channels - c);
      A best[kBlock];
      const auto look = [&](int64_t count) __attribute__((always_inline)) {
        load(map + (top * width + left) * channels + c, best, count);
        for (int64_t i = top; i < bottom; ++i) {
          for (int64_t j = left; j < right; ++j) keep_larger(map + (i * width + j) * channels + c, count, best);
        }
        store(best, row + x * channels + c, count);
      };
      if (n == kBlock) {
        look(kBlock);
      } else {
        look(n);
      }
    }
  }
}

// Winograd's convolution F(4×4, 3×3) (Lavin and Gray 2016): 36 products in the place of 144 for a tile of 4×4 results,
// and its gradients. The transforms are those of the paper's matrices A, B and G.

namespace {

typedef Vector<float> Channels;  // sixteen

// Bᵀ d of a column of six
inline __attribute__((always_inline)) void transform_input(const Channels* d, Channels* to) {
  const Channels even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1], near = d[4] - d[2], far = 2 * (d[3] - d[1]);
  to[0] = 4 * d[0] - 5 * d[2] + d[4];
  to[1] = even + odd;
  to[2] = even - odd;
  to[3] = near + far;
  to[4] = near - far;
  to[5] = 4 * d[1] - 5 * d[3] + d[5];
}

// Aᵀ m of a column of six
inline __attribute__((always_inline)) void transform_output(const Channels* m, Channels* to) {
  const Channels a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
  to[0] = m[0] + a + c;
  to[1] = b + 2 * d;
  to[2] = a + 4 * c;
  to[3] = b + 8 * d + m[5];
}

// A d of a column of four
inline __attribute__((always_inline)) void transform_gradient(const Channels* d, Channels* to) {
  const Channels even = d[0] + d[2], odd = d[1] + d[3], near = d[0] + 4 * d[2], far = 2 * d[1] + 8 * d[3];
  to[0] = d[0];
  to[1] = even + odd;
  to[2] = even - odd;
  to[3] = near + far;
  to[4] = near - far;
  to[5] = d[3];
}

// G g of a column of three
inline __attribute__((always_inline)) void transform_filter(const Channels* g, Channels* to) {
  const Channels even = (g[0] + g[2]) / -6, odd = g[1] / 6, near = g[0] / 24 + g[2] / 6, far = g[1] / 12;
  to[0] = g[0] / 4;
  to[1] = even - odd;
  to[2] = even + odd;
  to[3] = near + far;
  to[4] = near - far;
  to[5] = g[2];
}

// Gᵀ s of a column of six
inline __attribute__((always_inline)) void transform_filter_gradient(const Channels* s, Channels* to) {
  const Channels a = (s[1] + s[2]) / -6, b = s[3] + s[4];
  to[0] = s[0] / 4 + a + b / 24;
  to[1] = (s[2] - s[1]) / 6 + (s[3] - s[4]) / 12;
  to[2] = a + b / 6 + s[5];
}

// M d Mᵀ of a square of FROM × FROM, M being TO × FROM: get(i, j) is read, put(i, j, value) written.
template <int64_t FROM, int64_t TO, typename Transform, typename Get, typename Put>
inline __attribute__((always_inline)) void transform_square(const Transform& transform, const Get& get, const Put& put) {
  Channels columns[FROM][TO];  // M d, by column
  for (int64_t j = 0; j < FROM; ++j) {
    Channels column[FROM];
    for (int64_t i = 0; i < FROM; ++i) column[i] = get(i, j);
    transform(column, columns[j]);
  }
  for (int64_t i = 0; i < TO; ++i) {
    Channels row[FROM], result[TO];
    for (int64_t j = 0; j < FROM; ++j) row[j] = columns[j][i];
    transform(row, result);
    for (int64_t j = 0; j < TO; ++j) put(i, j, result[j]);
  }
}

}  // namespace

// A tile's image, and its first row and column.
struct Tile {
  int64_t image, y, x;

  Tile(const Maps& maps, int64_t t)
      : image(t / (maps.tile_rows() * maps.tile_columns())),
        y(t / maps.tile_columns() % maps.tile_rows() * 4),
        x(t % maps.tile_columns() * 4) {}

  // The element of the maps at row i and column j from the tile's corner, or −1 beyond the border.
  int64_t element(const Maps& maps, int64_t i, int64_t j) const {
    const bool inside = y + i >= 0 && y + i < maps.height && x + j >= 0 && x + j < maps.width;
    return inside ? ((image * maps.height + y + i) * maps.width + x + j) * maps.channels : -1;
  }
};

// Bᵀ d B of the windows of tiles [first, last) → `terms` (36, tiles, channels), `step` elements from one of the 36 to
// the next.
template <typename T>
void winograd_input(const Maps& maps, const T* x, int64_t first, int64_t last, float* terms, int64_t step) {
  for (int64_t t = first; t < last; ++t, terms += maps.channels) {
    const Tile tile(maps, t);
    for (int64_t c = 0; c < maps.channels; c += 16) {
      transform_square<6, 6>(
          transform_input,
          [&](int64_t i, int64_t j) {
            const int64_t at = tile.element(maps, i - 1, j - 1);
            return at < 0 ? Channels{} : load_vector<float>(x + at + c);
          },
          [&](int64_t i, int64_t j, const Channels& value) { narrow(value, terms + (i * 6 + j) * step + c); });
    }
  }
}

// Aᵀ m A of tiles [first, last), plus bias and, if there is one, a shortcut, rectified or not → the maps y.
template <typename T>
void winograd_output(const Maps& maps, const float* terms, int64_t step, const float* bias, const T* added, bool relu,
                     int64_t first, int64_t last, T* y) {
  const Channels floor = Channels{} + (relu ? 0.0f : -__builtin_inff());
  for (int64_t t = first; t < last; ++t, terms += maps.channels) {
    const Tile tile(maps, t);
    for (int64_t c = 0; c < maps.channels; c += 16) {
      const Channels shift = widen(bias + c);
      transform_square<6, 4>(
          transform_output, [&](int64_t i, int64_t j) { return widen(terms + (i * 6 + j) * step + c); },
          [&](int64_t i, int64_t j, const Channels& value) {
            const int64_t at = tile.element(maps, i, j);
            if (at < 0) return;
            Channels sum = value + shift;
            if (added) sum += load_vector<float>(added + at + c);
            store_vector<float>(sum < floor ? floor : sum, y + at + c);
          });
    }
  }
}

// A d Aᵀ of tiles [first, last) of the result's gradient → `terms` (36, tiles, channels), as above.
template <typename T>
void winograd_gradient(const Maps& maps, const T* gradient, int64_t first, int64_t last, float* terms, int64_t step) {
  for (int64_t t = first; t < last; ++t, terms += maps.channels) {
    const Tile tile(maps, t);
    for (int64_t c = 0; c < maps.channels; c += 16) {
      transform_square<4, 6>(
          transform_gradient,
          [&](int64_t i, int64_t j) {
            const int64_t at = tile.element(maps, i, j);
            return at < 0 ? Channels{} : load_vector<float>(gradient + at + c);
          },
          [&](int64_t i, int64_t j, const Channels& value) { narrow(value, terms + (i * 6 + j) * step + c); });
    }
  }
}

// G g Gᵀ of a row of filters (3, 3, channels), turned by half a turn or not → `terms` (36, …, channels), `step` elements
// from one of the 36 to the next.
void winograd_filters(const float* filters, int64_t channels, bool turned, float* terms, int64_t step) {
  for (int64_t c = 0; c < channels; c += 16) {
    transform_square<3, 6>(
        transform_filter,
        [&](int64_t i, int64_t j) {
          const int64_t tap = turned ? 8 - i * 3 - j : i * 3 + j;
          return widen(filters + tap * channels + c);
        },
        [&](int64_t i, int64_t j, const Channels& value) { narrow(value, terms + (i * 6 + j) * step + c); });
  }
}

// Gᵀ s G of the terms' gradient (36, …, channels) → the filters' (3, 3, channels).
void winograd_filters_gradient(const float* terms, int64_t step, int64_t channels, float* filters) {
  for (int64_t c = 0; c < channels; c += 16) {
    transform_square<6, 3>(
        transform_filter_gradient, [&](int64_t i, int64_t j) { return widen(terms + (i * 6 + j) * step + c); },
        [&](int64_t i, int64_t j, const Channels& value) { narrow(value, filters + (i * 3 + j) * channels + c); });
  }
}

// Non-maximum suppression

// Whether a box overlaps one of the kept ones by IoU > threshold. `kept` is x1, y1, x2, y2 and area, each padded with
// empty boxes to a multiple of kLanes.
template <typename A>
bool overlaps_any(const A* box, A area, const A* const* kept, int64_t count, A threshold) {
  const A x1 = box[0], y1 = box[1], x2 = box[2], y2 = box[3];
  const A nearly = threshold * A(0.9999);  // a product in the place of a division; who passes it is looked at closely
  for (int64_t j = 0; j < count; j += kLanes) {
    int32_t hit = threshold < 0;  // then the product below would not do
    for (int64_t k = j; k < j + kLanes; ++k) {
      const A left = kept[0][k] > x1 ? kept[0][k] : x1, top = kept[1][k] > y1 ? kept[1][k] : y1;
      const A right = kept[2][k] < x2 ? kept[2][k] : x2, bottom = kept[3][k] < y2 ? kept[3][k] : y2;
      const A width = right - left, height = bottom - top;
      const A inter = (width > 0 ? width : A(0)) * (height > 0 ? height : A(0));
      hit |= inter >= nearly * (kept[4][k] + area - inter);
    }
    if (!hit) continue;
    for (int64_t k = j; k < j + kLanes && k < count; ++k) {
      const A left = kept[0][k] > x1 ? kept[0][k] : x1, top = kept[1][k] > y1 ? kept[1][k] : y1;
      const A right = kept[2][k] < x2 ? kept[2][k] : x2, bottom = kept[3][k] < y2 ? kept[3][k] : y2;
      const A width = right - left, height = bottom - top;
      const A inter = (width > 0 ? width : A(0)) * (height > 0 ? height : A(0));
      if (inter / (kept[4][k] + area - inter) > threshold) return true;
    }
  }
  return false;
}

#define RESDET_INSTANTIATE(T, A)                                                                                     \
  template void align_forward<T, A>(const Regions<A>&, const T*, T*, A*, int64_t, int64_t);                          \
  template void align_backward<T, A>(const Regions<A>&, const T*, A*, A*, int64_t, int64_t);                         \
  template void pool_forward<T, A>(const Regions<A>&, const T*, T*, int32_t*, int64_t, int64_t);                     \
  template bool pool_backward<T, A>(const Regions<A>&, const T*, const int32_t*, A*, int64_t, int64_t);              \
  template void channel_sums<T, A>(const T*, const T*, const T*, const A*, const A*, const A*, int64_t, int64_t,     \
                                      double*);                                                                      \
  template void affine<T, A>(const T*, const T*, const A*, const A*, bool, int64_t, int64_t, T*);                    \
  template void affine_gradient<T, A>(const T*, const T*, const T*, const A*, const A*, const A*, const A*, int64_t, \
                                         int64_t, T*, T*);                                                           \
  template void cell_means<T, A>(const T*, int64_t, int64_t, A*);                                                    \
  template void max_pool_row<T, A>(const T*, int64_t, int64_t, int64_t, int64_t, T*);

RESDET_INSTANTIATE(float, float)
RESDET_INSTANTIATE(double, double)
RESDET_INSTANTIATE(bfloat16, float)
#define RESDET_INSTANTIATE_WINOGRAD(T)                                                                       \
  template void winograd_input<T>(const Maps&, const T*, int64_t, int64_t, float*, int64_t);                  \
  template void winograd_gradient<T>(const Maps&, const T*, int64_t, int64_t, float*, int64_t);               \
  template void winograd_output<T>(const Maps&, const float*, int64_t, const float*, const T*, bool, int64_t, \
                                   int64_t, T*);

RESDET_INSTANTIATE_WINOGRAD(float)
RESDET_INSTANTIATE_WINOGRAD(bfloat16)
template void max_pool_row<uint8_t, uint8_t>(const uint8_t*, int64_t, int64_t, int64_t, int64_t, uint8_t*);
template void cell_means<uint8_t, float>(const uint8_t*, int64_t, int64_t, float*);
template void quantize<float>(const float*, float, float, int64_t, uint8_t*);
template void quantize<bfloat16>(const bfloat16*, float, float, int64_t, uint8_t*);
template void align_quantized<float>(const Regions<float>&, const uint8_t*, float, float, const float*, uint8_t*, float*,
                                     int64_t, int64_t);
template bool overlaps_any<float>(const float*, float, const float* const*, int64_t, float);
template bool overlaps_any<double>(const double*, double, const double* const*, int64_t, double);

}  // namespace RESDET_ISA
}  // namespace resdet
