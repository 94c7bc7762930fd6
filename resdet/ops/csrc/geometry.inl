// Where a region's bins lie on the feature map: the same for every processor. Included into the namespace of each copy
// of the kernels, with RESDET_FUNCTION saying where it runs.

RESDET_FUNCTION float floor_of(float x) { return __builtin_floorf(x); }
RESDET_FUNCTION double floor_of(double x) { return __builtin_floor(x); }

RESDET_FUNCTION int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
RESDET_FUNCTION int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// A box in cells; `finite` is false if it has a coordinate that is not a number or beyond all maps.
template <typename A>
struct Cells {
  A start_y, start_x, size_y, size_x;
  bool finite;
};

template <typename A>
RESDET_FUNCTION bool is_finite(A x) {
  return x - x == 0;
}

// RoI align

template <typename A>
RESDET_FUNCTION Cells<A> align_cells(const Regions<A>& regions, int64_t r) {
  const A* box = regions.boxes + 4 * r;
  const A offset = regions.aligned ? A(0.5) : A(0);
  Cells<A> cells;
  cells.start_x = box[0] * regions.scale - offset;
  cells.start_y = box[1] * regions.scale - offset;
  cells.size_x = box[2] * regions.scale - offset - cells.start_x;
  cells.size_y = box[3] * regions.scale - offset - cells.start_y;
  cells.finite = is_finite(cells.start_x) && is_finite(cells.start_y) && is_finite(cells.size_x) &&
                 is_finite(cells.size_y);
  if (!regions.aligned) {
    cells.size_x = cells.size_x > 1 ? cells.size_x : A(1);
    cells.size_y = cells.size_y > 1 ? cells.size_y : A(1);
  }
  return cells;
}

// Samples along the two sides of each bin; false if every bin is zero.
template <typename A>
RESDET_FUNCTION bool align_samples(const Regions<A>& regions, const Cells<A>& cells, int64_t& samples_y,
                                   int64_t& samples_x) {
  if (!cells.finite) return false;
  const A span_y = -floor_of(-cells.size_y / regions.bins), span_x = -floor_of(-cells.size_x / regions.bins);
  const A limit = A(1) * (int64_t(1) << 40);
  if (!(span_y < limit && span_x < limit)) return false;
  samples_y = regions.sampling_ratio > 0 ? regions.sampling_ratio : static_cast<int64_t>(span_y);
  samples_x = regions.sampling_ratio > 0 ? regions.sampling_ratio : static_cast<int64_t>(span_x);
  return samples_y > 0 && samples_x > 0;
}

// One bin along one axis: how much each cell of the map counts in it. The bilinear weights of the bin's samples are
// merged and divided by their number: weights[i] is that of cell low + i, for i below count. A negative weight marks a
// cell between samples that none of them reads: whatever it holds, even NaN, does not count.
template <typename A>
RESDET_FUNCTION void fill_bin(A* weights, int64_t& low, int64_t& count, A start, A bin, int64_t p, int64_t samples,
                              int64_t length) {
  low = length;
  count = 0;
  if (length == 0) return;
  int64_t high = -1;
  A first = start + p * bin, step = bin / samples;
  if (step < 0) {  // the box's corners are exchanged: the same samples from the other end
    first += bin;
    step = -step;
  }
  // Samples beyond the map count as zero; of a box that reaches far beyond it, most are not even looked at.
  int64_t from = 0, to = samples;
  if (step > 0 && samples > 4 * (length + 4)) {
    const A lowest = floor_of((A(-1) - first) / step - A(0.5)) - 1, highest = floor_of((length - first) / step) + 2;
    from = lowest > 0 ? (lowest < A(samples) ? static_cast<int64_t>(lowest) : samples) : 0;
    to = highest < A(samples) ? (highest > 0 ? static_cast<int64_t>(highest) : 0) : samples;
  }
  for (int64_t i = from; i < to; ++i) {
    A y = first + (i + A(0.5)) * step;
    if (!(y >= -1 && y <= length)) continue;
    y = y > 0 ? y : A(0);
    int64_t cell = static_cast<int64_t>(y);
    A next = y - cell;
    if (cell >= length - 1) {
      cell = length - 1;
      next = 0;
    }
    const int64_t last = cell + (cell < length - 1);
    if (high < 0) {
      low = high = cell;
      weights[0] = 0;
    }
    for (; high < last; ++high) weights[high + 1 - low] = high + 1 < cell ? A(-1) : A(0);
    weights[cell - low] += 1 - next;
    weights[last - low] += next;
  }
  count = high < 0 ? 0 : high - low + 1;
  for (int64_t i = 0; i < count; ++i) weights[i] /= samples;  // the mean over the samples
}

// RoI pooling

// Cells [low, high) of bin p along an axis of `length` cells (Fast R-CNN's code).
template <typename A>
RESDET_FUNCTION void pool_bin(A start, A size, int64_t bins, int64_t p, int64_t length, int64_t& low, int64_t& high) {
  const A bin = size / bins;
  low = at_most(at_least(static_cast<int64_t>(floor_of(p * bin) + start), 0), length);
  high = at_most(at_least(static_cast<int64_t>(-floor_of(-((p + 1) * bin)) + start), 0), length);
}

// Corners rounded to cells, halves away from zero; the last cell belongs to the box.
template <typename A>
RESDET_FUNCTION Cells<A> pool_cells(const Regions<A>& regions, int64_t r) {
  const A* box = regions.boxes + 4 * r;
  A corner[4];
  bool finite = true;
  for (int i = 0; i < 4; ++i) {
    const A x = box[i] * regions.scale;
    finite = finite && x > A(-1e9) && x < A(1e9);
    corner[i] = x < 0 ? -floor_of(A(0.5) - x) : floor_of(x + A(0.5));
  }
  const A width = corner[2] - corner[0] + 1, height = corner[3] - corner[1] + 1;
  return {corner[1], corner[0], height > 1 ? height : A(1), width > 1 ? width : A(1), finite};
}
