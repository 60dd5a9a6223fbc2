// Σ down the columns of x (M, I).
#include "common.cuh"
#include "lines.cuh"

// out (strips, I): the sums of strips of rows. A block for each COLUMNS places (grid x) of each strip (grid y).
template <typename From, typename To>
__device__ void sum_strips(const From* x, To* out, long long rows, long long width) {
  sum_columns<From>(
      aligned(x), width, strip_of_grid(rows), [&](auto place, auto) { return load(x, place); },
      [&](auto at, const auto& sum) {
        for (int k = 0; k < at.width; k++) out[blockIdx.y * width + at.start + k] = sum.at[k];
      });
}

// Into `out` (I,) where there is one strip, else into partial (strips, I).
template <typename T>
__global__ void strips(const T* x, Acc<T>* partial, T* out, long long rows, long long width) {
  if (out)
    sum_strips(x, out, rows, width);
  else
    sum_strips(x, partial, rows, width);
}

template <typename T>
__global__ void add_strips(const Acc<T>* partial, T* out, long long strips, long long width) {
  sum_strips(partial, out, strips, width);
}
