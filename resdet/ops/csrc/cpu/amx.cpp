// The bodies of amx.h. As in kernels.inl, no functions of the standard library.

#include "amx.h"

#ifdef RESDET_AMX

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RESDET_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")))
#define RESDET_INLINE RESDET_TARGET inline __attribute__((always_inline))

namespace resdet {
namespace amx {
namespace {

constexpr int64_t kSlack = 2 * kPairs;  // pixels beyond the end of a strip that a tile may read

// Tiles 0 to 2 hold sums, 5 the factor that they have in common, 6 the other ones in turn. Two threads of a processor
// that both multiply share its store of tiles: a loop that names five of the eight runs up to twice as fast there as one
// that names all, and three sums hide the delay of each other nearly as well as four.

constexpr int kSums = 3;

template <int kId>
RESDET_INLINE void tile_load(const void* from, int64_t bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(bytes), "i"(kId) : "memory");
}
template <int kId>
RESDET_INLINE void tile_store(void* to, int64_t bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(bytes), "i"(kId) : "memory");
}
template <int kId>
RESDET_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kId));
}
template <int kSum, int kLeft, int kRight>
RESDET_INLINE void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

// The tile unit, for as long as this lives. Tiles have 16 rows of 64 bytes; 7 and 4 are the left and the right factor of
// half a step of 16 products, beyond which a left factor holds what is not to be read: 0 · NaN would be NaN.
struct Tiles {
  Tiles() {
    struct alignas(64) Config {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 32};
      uint8_t rows[16] = {16, 16, 16, 16, 8, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  ~Tiles() { asm volatile("tilerelease"); }
};

// A factor of a product: where it starts, elements between the rows of a tile, and from one step to the next.
struct Factor {
  const bfloat16* start;
  int64_t row, step;

  const bfloat16* at(int64_t t) const { return start + t * step; }
};

template <int kSum, bool kLeft>
RESDET_INLINE void multiply_by(const Factor& factor, int64_t t) {
  tile_load<6>(factor.at(t), factor.row * 2);
  if (kLeft) {
    tile_multiply<kSum, 6, 5>();
  } else {
    tile_multiply<kSum, 5, 6>();
  }
}

// kM tiles of sums += factor · common factor, over `steps` steps of 32 products; the factors are left or right ones.
template <int kM, bool kLeft>
RESDET_INLINE void multiply(const Factor* factors, const Factor& common, int64_t steps) {
  for (int64_t t = 0; t < steps; ++t) {
    tile_load<5>(common.at(t), common.row * 2);
    multiply_by<0, kLeft>(factors[0], t);
    if (kM > 1) multiply_by<1, kLeft>(factors[1], t);
    if (kM > 2) multiply_by<2, kLeft>(factors[2], t);
  }
}

template <int kSum>
RESDET_INLINE void multiply_half_by(const Factor& left, int64_t t) {
  tile_load<7>(left.at(t), left.row * 2);
  tile_multiply<kSum, 7, 4>();
}

// kM tiles of sums += left factor · common right factor, over the first 16 products of step t.
template <int kM>
RESDET_INLINE void multiply_half(const Factor* lefts, const Factor& right, int64_t t) {
  tile_load<4>(right.at(t), right.row * 2);
  multiply_half_by<0>(lefts[0], t);
  if (kM > 1) multiply_half_by<1>(lefts[1], t);
  if (kM > 2) multiply_half_by<2>(lefts[2], t);
}

template <int kM>
RESDET_INLINE void zero_sums() {
  tile_zero<0>();
  if (kM > 1) tile_zero<1>();
  if (kM > 2) tile_zero<2>();
}
template <int kM>
RESDET_INLINE void store_sums(float* sums, int64_t apart) {
  tile_store<0>(sums, 64);
  if (kM > 1) tile_store<1>(sums + apart, 64);
  if (kM > 2) tile_store<2>(sums + 2 * apart, 64);
}

// The same for kM tiles of sums in memory, `apart` elements from each other.
template <int kM, bool kLeft>
RESDET_INLINE void multiply_add(const Factor* factors, const Factor& common, int64_t steps, float* sums,
                                int64_t apart) {
  tile_load<0>(sums, 64);
  if (kM > 1) tile_load<1>(sums + apart, 64);
  if (kM > 2) tile_load<2>(sums + 2 * apart, 64);
  multiply<kM, kLeft>(factors, common, steps);
  store_sums<kM>(sums, apart);
}

// The same for `count` tiles, two or three at a time, since a single sum would wait for itself.
template <bool kLeft>
RESDET_TARGET void multiply_all(const Factor* factors, int64_t count, const Factor& common, int64_t steps, float* sums,
                                int64_t apart) {
  while (count > 0) {
    const int64_t some = count == 1 ? 1 : count == 2 || count == 4 ? 2 : 3;
    if (some == 3) multiply_add<3, kLeft>(factors, common, steps, sums, apart);
    if (some == 2) multiply_add<2, kLeft>(factors, common, steps, sums, apart);
    if (some == 1) multiply_add<1, kLeft>(factors, common, steps, sums, apart);
    factors += some;
    sums += some * apart;
    count -= some;
  }
}

RESDET_INLINE void set_zero(bfloat16* to, int64_t n) { __builtin_memset(to, 0, n * 2); }
RESDET_INLINE void copy(bfloat16* to, const bfloat16* from, int64_t n) { __builtin_memcpy(to, from, n * 2); }

// Rows [rows.first, rows.last) of a grid, some of the channels of each pixel, and zeros for `kSlack` pixels more.
RESDET_TARGET void fill_strip(const Grid& grid, Rows rows, const bfloat16* map, int64_t all_channels, int64_t first,
                              int64_t channels, int64_t dilation, bfloat16* strip) {
  const int64_t height = (grid.height + dilation - 1) / dilation, width = (grid.width + dilation - 1) / dilation;
  for (int64_t row = rows.first; row < rows.last; ++row, strip += grid.pitch() * channels) {
    const int64_t image = row / grid.image_rows(), y = row % grid.image_rows() - grid.pad();
    if (row < 0 || image >= grid.images || y < 0 || y % dilation) {
      set_zero(strip, grid.pitch() * channels);
      continue;
    }
    const bfloat16* from = map + (image * height + y / dilation) * width * all_channels + first;
    set_zero(strip, grid.pad() * channels);
    bfloat16* to = strip + grid.pad() * channels;
    if (dilation == 1 && channels == all_channels) {
      copy(to, from, width * channels);
      continue;
    }
    for (int64_t x = 0; x < grid.width; ++x, to += channels) {
      if (x % dilation) {
        set_zero(to, channels);
      } else {
        copy(to, from + x / dilation * all_channels, channels);
      }
    }
  }
  set_zero(strip, kSlack * channels);
}

int64_t strip_pixels(const Grid& grid, int64_t rows) { return rows * grid.pitch() + kSlack; }

// Sixteen pixels of the strip that make a tile.
struct Place {
  int64_t start;   // in the strip
  int64_t target;  // of the first one that is a pixel of the result; the others follow it there
  uint32_t mask;   // which ones are pixels of the result; the others lie between the maps
};

// The places of some rows of a grid → their number.
RESDET_TARGET int64_t fill_places(const Grid& grid, Rows rows, int64_t stride, Place* places) {
  const int64_t height = (grid.height + stride - 1) / stride, width = (grid.width + stride - 1) / stride;
  // At stride 1 rows follow each other without a gap, else each starts a place.
  const int64_t pitch = stride == 1 ? grid.pitch() : (width + kTile - 1) / kTile * kTile;
  int64_t count = 0, slot = 0;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const int64_t image = row / grid.image_rows(), y = row % grid.image_rows() - grid.pad();
    if (stride > 1 && (y < 0 || y % stride)) continue;
    const int64_t end = slot + pitch, start = (row - rows.first) * grid.pitch() - slot * stride;
    for (; count * kTile < end; ++count) places[count] = {start + count * kTile * stride, 0, 0};
    int64_t target = (image * height + y / stride) * width;
    for (int64_t left = y < 0 ? 0 : width, at = slot; left > 0;) {
      const int64_t bit = at % kTile, n = left < kTile - bit ? left : kTile - bit;
      Place& place = places[at / kTile];
      if (!place.mask) place.target = target;
      place.mask |= ((1u << n) - 1) << bit;
      target += n;
      at += n;
      left -= n;
    }
    slot = end;
  }
  return count;
}

RESDET_INLINE void store_rounded(const float* from, bfloat16* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(from)));
}

// kM places of 16 output channels.
template <int kM>
RESDET_TARGET void convolve_block(const Grid& grid, const Place* places, const bfloat16* strip, int64_t inputs,
                                  const bfloat16* weights, int64_t stride, int64_t outputs, bfloat16* result) {
  alignas(64) float sums[kM][kTileSums];
  const int64_t steps = amx::steps(grid, inputs), whole = grid.kernel * inputs / kPairs;
  zero_sums<kM>();
  for (int64_t ky = 0; ky < grid.kernel; ++ky) {
    Factor pixels[kM];
    for (int m = 0; m < kM; ++m) {
      pixels[m] = {strip + (places[m].start + ky * grid.pitch()) * inputs, stride * inputs, kPairs};
    }
    const Factor packed = {weights + ky * steps * kTileSize, kPairs, kTileSize};
    multiply<kM, true>(pixels, packed, whole);
    if (whole < steps) multiply_half<kM>(pixels, packed, whole);
  }
  store_sums<kM>(sums[0], kTileSums);
  for (int m = 0; m < kM; ++m) {
    bfloat16* to = result + places[m].target * outputs;
    if (places[m].mask == 0xffff) {
      for (int64_t i = 0; i < kTile; ++i, to += outputs) store_rounded(sums[m] + i * kTile, to);
      continue;
    }
    for (uint32_t mask = places[m].mask; mask; mask &= mask - 1, to += outputs) {
      store_rounded(sums[m] + __builtin_ctz(mask) * kTile, to);
    }
  }
}

// Sixteen numbers and the sixteen that belong beside them.
RESDET_INLINE __m512i paired(__m256i one, __m256i two) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(one), _mm512_slli_epi32(_mm512_cvtepu16_epi32(two), 16));
}

// (pixels, channels) → (pixels / 2, channels, 2), as the right factor of a product over pixels.
RESDET_TARGET void interleave(const bfloat16* from, int64_t pixels, int64_t channels, bfloat16* to) {
  for (int64_t p = 0; p < pixels; p += 2) {
    for (int64_t c = 0; c < channels; c += kTile) {
      const __m256i one = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + p * channels + c));
      const __m256i two = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + (p + 1) * channels + c));
      _mm512_storeu_si512(to + p * channels + 2 * c, paired(one, two));
    }
  }
}

// (pixels, channels) → (channels, row), 16 pixels at a time: the left factor of a product over pixels.
RESDET_TARGET void transpose(const bfloat16* from, int64_t pixels, int64_t channels, bfloat16* to, int64_t row) {
  for (int64_t p = 0; p < pixels; p += kTile) {
    for (int64_t c = 0; c < channels; c += kTile) {
      __m256i x[16], y[16];
      for (int i = 0; i < 16; ++i) {
        x[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + (p + i) * channels + c));
      }
      for (int i = 0; i < 8; ++i) {
        y[2 * i] = _mm256_unpacklo_epi16(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm256_unpackhi_epi16(x[2 * i], x[2 * i + 1]);
      }
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 2; ++j) {
          x[4 * i + 2 * j] = _mm256_unpacklo_epi32(y[4 * i + j], y[4 * i + j + 2]);
          x[4 * i + 2 * j + 1] = _mm256_unpackhi_epi32(y[4 * i + j], y[4 * i + j + 2]);
        }
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 4; ++j) {
          y[8 * i + 2 * j] = _mm256_unpacklo_epi64(x[8 * i + j], x[8 * i + j + 4]);
          y[8 * i + 2 * j + 1] = _mm256_unpackhi_epi64(x[8 * i + j], x[8 * i + j + 4]);
        }
      }
      for (int j = 0; j < 8; ++j) {
        x[j] = _mm256_permute2x128_si256(y[j], y[j + 8], 0x20);
        x[j + 8] = _mm256_permute2x128_si256(y[j], y[j + 8], 0x31);
      }
      for (int i = 0; i < 16; ++i) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + (c + i) * row + p), x[i]);
      }
    }
  }
}

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Elements of a row of transposed pixels: an odd number of cache lines, so that rows do not share their sets.
int64_t transposed_row(int64_t pixels) { return round_up(pixels, 64) + 32; }

}  // namespace

bool available() {
  static const bool usable = [] {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    __builtin_cpu_init();
    const bool tiles = (edx >> 22 & 1) && (edx >> 24 & 1);  // AMX-BF16 and AMX-TILE
    const bool vectors = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                         __builtin_cpu_supports("avx512bf16");
    constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return tiles && vectors && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  return usable;
}

RESDET_TARGET void pack(const Grid& grid, const float* weights, int64_t outputs, int64_t inputs, bool transposed,
                        int64_t block, int64_t ky, bfloat16* packed) {
  const int64_t kernel = grid.kernel, run = kernel * inputs, taps = kernel * kernel;
  if (!transposed) {
    const __m512i column = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                              _mm512_set1_epi32(kTile));
    for (int64_t k = 0; k < run; k += kPairs, packed += kTileSize) {
      const __mmask16 second = run - k > kTile ? 0xffff : 0;  // inputs come in sixteens
      for (int64_t n = 0; n < kTile; ++n) {
        const float* from = weights + ((block * kTile + n) * kernel + ky) * run + k;
        const __m512 low = _mm512_loadu_ps(from), high = _mm512_maskz_loadu_ps(second, from + kTile);
        _mm512_i32scatter_epi32(reinterpret_cast<int*>(packed) + n, column, (__m512i)_mm512_cvtne2ps_pbh(high, low), 4);
      }
    }
    return;
  }
  const int64_t products = steps(grid, outputs) * kPairs;
  for (int64_t k = 0; k < products; k += 2, packed += kPairs) {
    const int64_t kx = k / outputs;
    if (kx >= kernel) {
      set_zero(packed, kPairs);
      continue;
    }
    const int64_t tap = taps - 1 - ky * kernel - kx;
    const float* from = weights + (k % outputs * taps + tap) * inputs + block * kTile;
    const __m256i one = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from));
    const __m256i two = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + taps * inputs));
    _mm512_storeu_si512(packed, paired(one, two));
  }
}

// Elements of bfloat16 that the places of so many rows may take.
static int64_t places_size(const Grid& grid, int64_t rows, int64_t stride) {
  const int64_t row = round_up(grid.pitch(), kTile * stride) + kTile;
  return (rows * row / kTile + 1) * int64_t(sizeof(Place)) / 2;
}

int64_t convolve_workspace(const Grid& grid, int64_t rows, int64_t inputs, int64_t stride) {
  return places_size(grid, rows, stride) + strip_pixels(grid, rows + 2 * grid.pad()) * inputs + 64;
}

RESDET_TARGET void convolve(const Grid& grid, Rows rows, const bfloat16* map, int64_t inputs, int64_t dilation,
                            const bfloat16* weights, int64_t outputs, int64_t stride, bfloat16* result,
                            bfloat16* workspace) {
  Place* places = reinterpret_cast<Place*>(workspace);
  bfloat16* strip = workspace + places_size(grid, rows.last - rows.first, stride);
  const int64_t count = fill_places(grid, rows, stride, places);
  fill_strip(grid, {rows.first - grid.pad(), rows.last + grid.pad()}, map, inputs, 0, inputs, dilation, strip);
  const Tiles tiles;
  for (int64_t n = 0; n < outputs; n += kTile, weights += grid.kernel * steps(grid, inputs) * kTileSize) {
    int64_t p = 0;
    for (; p + kSums <= count; p += kSums) {
      convolve_block<kSums>(grid, places + p, strip, inputs, weights, stride, outputs, result + n);
    }
    for (; p < count; ++p) convolve_block<1>(grid, places + p, strip, inputs, weights, stride, outputs, result + n);
  }
}

int64_t weight_gradient_workspace(const Grid& grid, int64_t rows, int64_t inputs, int64_t outputs) {
  const int64_t pixels = strip_pixels(grid, rows + 2 * grid.pad());
  const int64_t channels = inputs > outputs ? inputs : outputs;
  return pixels * channels + inputs * transposed_row(pixels) + pixels * outputs +
         (9 * inputs + outputs) / kTile * int64_t(sizeof(Factor)) / 2 + 64;
}

RESDET_TARGET void weight_gradient(const Grid& grid, Rows rows, const bfloat16* map, int64_t all_inputs,
                                   int64_t first, int64_t inputs, const bfloat16* gradient, int64_t outputs,
                                   int64_t dilation, float* sums, bfloat16* workspace) {
  const int64_t strip_rows = rows.last - rows.first + 2 * grid.pad(), pixels = strip_pixels(grid, strip_rows);
  const int64_t row = transposed_row(pixels), channels = inputs > outputs ? inputs : outputs;
  const int64_t steps = ((rows.last - rows.first) * grid.pitch() + kPairs - 1) / kPairs;
  bfloat16* strip = workspace;
  bfloat16* right = strip + pixels * channels;
  bfloat16* transposed = right + pixels * outputs;
  Factor* lefts = reinterpret_cast<Factor*>(transposed + inputs * row);
  Factor* rights = lefts + 9 * inputs / kTile;

  fill_strip(grid, rows, gradient, outputs, 0, outputs, dilation, strip);
  interleave(strip + grid.pad() * outputs, steps * kPairs, outputs, right);
  fill_strip(grid, {rows.first - grid.pad(), rows.last + grid.pad()}, map, all_inputs, first, inputs, 1, strip);
  transpose(strip, pixels / kTile * kTile, inputs, transposed, row);

  const int64_t blocks = outputs / kTile;
  int64_t count = 0;
  for (int64_t ky = 0; ky < grid.kernel; ++ky) {
    for (int64_t kx = 0; kx < grid.kernel; ++kx) {
      for (int64_t c = 0; c < inputs; c += kTile) {
        lefts[count++] = {transposed + c * row + ky * grid.pitch() + kx, row, kPairs};
      }
    }
  }
  for (int64_t n = 0; n < blocks; ++n) rights[n] = {right + n * kPairs, 2 * outputs, kPairs * outputs};
  const Tiles tiles;
  if (blocks == 1) return multiply_all<true>(lefts, count, rights[0], steps, sums, kTileSums);
  for (int64_t i = 0; i < count; ++i) {
    multiply_all<false>(rights, blocks, lefts[i], steps, sums + i * blocks * kTileSums, kTileSums);
  }
}

}  // namespace amx
}  // namespace resdet

#endif
