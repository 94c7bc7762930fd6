// The CUDA kernels on a CPU: the threads of a block are threads here, its blocks run one after the other.
//
// A library with a C interface, which test_cuda_on_cpu.py compiles, calls and compares.

#include <atomic>
#include <barrier>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

struct Index {
  unsigned x = 0, y = 0;
};
Index blockIdx, gridDim, blockDim;
thread_local Index threadIdx;
std::unique_ptr<std::barrier<>> block;
std::atomic<int> votes;

void __syncthreads() { block->arrive_and_wait(); }
int __syncthreads_or(int vote) {
  if (vote) votes.fetch_add(1);
  __syncthreads();
  const int result = votes.load();
  __syncthreads();
  if (threadIdx.x == 0) votes = 0;
  __syncthreads();
  return result != 0;
}
int __ffsll(long long x) { return __builtin_ffsll(x); }

#define __global__
#define __device__
#define __shared__ static
#define RESDET_DYNAMIC_SHARED extern
#include "nms_kernels.cuh"
#include "roi_kernels.cuh"

namespace resdet::cuda {
namespace {
uint64_t removed[1 << 10];
}
}  // namespace resdet::cuda

namespace {

using namespace resdet;
using namespace resdet::cuda;

template <typename F>
void launch(Index grid, unsigned threads, const F& kernel) {
  gridDim = grid;
  blockDim = {threads, 1};
  block = std::make_unique<std::barrier<>>(threads);
  for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
      std::vector<std::thread> running;
      for (unsigned i = 0; i < threads; ++i) {
        running.emplace_back([&, i] {
          threadIdx = {i, 0};
          kernel();
        });
      }
      for (auto& thread : running) thread.join();
    }
  }
}

template <bool kAlign, int kCount>
void pool(Regions<float> regions, int64_t images, const float* maps, float* pooled, int32_t* cells,
          const float* gradient, float* maps_gradient) {
  const int64_t side = regions.pooled, entries = 2 * regions.count * side, bins = regions.count * side * side;
  const int64_t row = row_of_weights(regions.height > regions.width ? regions.height : regions.width, side);
  std::vector<int32_t> low(entries), count(entries), start(entries), extent(4 * regions.count);
  std::vector<float> weights(2 * regions.count * row);
  const Tables<float> tables{low.data(), count.data(), start.data(), extent.data(), weights.data(), row};
  const Index one{1, 1};
  launch(one, 2 * regions.count, [&] { fill_tables<kAlign>(regions, images, tables); });
  launch(one, 2, [&] {
    if constexpr (kAlign) {
      align_forward<kCount>(regions, bins, tables, maps, pooled);
    } else {
      pool_forward(regions, bins, tables, maps, pooled, cells);
    }
  });
  launch(one, kThreads, [&] {
    backward<kAlign, kCount>(regions, images * regions.height * regions.width, tables, gradient, cells, maps_gradient);
  });
}

}  // namespace

// Maps (N, H, W, C), `gradient` of the pooled regions (R, P, P, C) → pooled, cells (for RoI pooling), maps_gradient.
// With `level` (R,), the maps are those of level 1, and regions of others are left as they are.
extern "C" void pool_on_cpu(bool align, bool packs, const float* boxes, const int64_t* image, const int64_t* shape,
                            int64_t count, int64_t bins, int64_t stride, float scale, int64_t sampling_ratio,
                            bool aligned, const int64_t* level, const float* maps, float* pooled, int32_t* cells,
                            const float* gradient, float* maps_gradient) {
  const Regions<float> regions{boxes,    image, count, shape[1], shape[2], shape[3], bins, stride, (bins + stride - 1) / stride,
                               scale, sampling_ratio, aligned, level, 1};
  const auto run = align ? (packs ? &pool<true, 4> : &pool<true, 1>) : (packs ? &pool<false, 4> : &pool<false, 1>);
  run(regions, shape[0], maps, pooled, cells, gradient, maps_gradient);
}

// Boxes (M, 4) in the order of `order` (M,), labels (M,) or nothing → kept (M + 1,), of which the last is the number.
extern "C" void nms_on_cpu(const float* boxes, const int64_t* labels, const int64_t* order, int64_t count,
                           float threshold, int64_t limit, int64_t* kept) {
  const int64_t words = (count + kWord - 1) / kWord;
  std::vector<uint64_t> mask(count * words);
  const unsigned side = static_cast<unsigned>(words);
  launch({side, side}, kWord, [&] { overlaps(boxes, labels, order, count, threshold, mask.data()); });
  launch({1, 1}, kWord, [&] { cuda::select(mask.data(), order, count, words, limit, kept); });
}
