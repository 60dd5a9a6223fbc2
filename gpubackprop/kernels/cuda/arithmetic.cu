// Products of x (N, S, C) with factors s (N, C). Formulas: ops/arithmetic.py.
#include "common.cuh"
#include "lines.cuh"

// y = x s; of dy it gives dx. size: S·C, width: C; n numbers in all
template <typename T>
__global__ void scale(const T* x, const T* s, T* y, long long size, long long width, long long n) {
  over_grid<T>(n, width % (16 / sizeof(T)) == 0 && aligned(x, s, y), [&](auto at) {
    auto pack = load(x, at);
    const auto factor = load(s, Place<at.width>{at.start / size * width + at.start % width});
    for (int k = 0; k < at.width; k++) pack.at[k] *= factor.at[k];
    store(y, at, pack);
  });
}

// ds (N, C) = Σ dy x over a sample's positions, and dx = dy s where it is not missing
// A block of COLUMNS by LINES threads for each sample (grid x) and some of its columns (grid y).
template <typename T>
__global__ void scale_backward(const T* x, const T* s, const T* dy, T* dx, T* ds, long long positions,
                               long long width) {
  const long long start = blockIdx.x * positions * width;
  x += start;
  dy += start;
  if (dx) dx += start;
  s += blockIdx.x * width;
  ds += blockIdx.x * width;
  const Strip strip{threadIdx.y, positions, LINES, blockIdx.y, gridDim.y};
  const auto product = [&](auto place, auto at) {
    auto slope = load(dy, place), pack = load(x, place);
    const auto factor = load(s, at);
    for (int k = 0; k < at.width; k++) {
      pack.at[k] *= slope.at[k];
      slope.at[k] *= factor.at[k];
    }
    if (dx) store(dx, place, slope);
    return pack;
  };
  const bool wide = aligned(x, s, dy, dx, ds);
  sum_columns<T>(wide, width, strip, product, [&](auto at, const auto& sum) { store(ds, at, sum); });
}
