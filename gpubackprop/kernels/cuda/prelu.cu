// Leaky relu of x (M, C) with learned slopes (C,), or one. Formulas: ops/rectified.py.
#include "common.cuh"
#include "lines.cuh"

// The slopes of the numbers at a place; width is C, or 1 for one slope.
template <typename T, int WIDTH>
__device__ Pack<Acc<T>, WIDTH> slopes(const T* weight, Place<WIDTH> at, long long width) {
  if (width > 1) return load(weight, Place<WIDTH>{at.start % width});
  Pack<Acc<T>, WIDTH> pack;
  for (int k = 0; k < WIDTH; k++) pack.at[k] = weight[0];
  return pack;
}

// y = x where x > 0, else weight x
template <typename T>
__global__ void forward(const T* x, const T* weight, T* y, long long width, long long n) {
  const bool whole = width == 1 || (width % (16 / sizeof(T)) == 0 && aligned(weight));
  over_grid<T>(n, whole && aligned(x, y), [&](auto at) {
    auto pack = load(x, at);
    const auto slope = slopes(weight, at, width);
    for (int k = 0; k < at.width; k++) pack.at[k] *= pack.at[k] > 0 ? Acc<T>(1) : slope.at[k];
    store(y, at, pack);
  });
}

// dx = dy where x > 0, else weight dy
template <typename T>
__global__ void backward(const T* x, const T* weight, const T* dy, T* dx, long long width, long long n) {
  const bool whole = width == 1 || (width % (16 / sizeof(T)) == 0 && aligned(weight));
  over_grid<T>(n, whole && aligned(x, dy, dx), [&](auto at) {
    const auto from = load(x, at), slope = slopes(weight, at, width);
    auto pack = load(dy, at);
    for (int k = 0; k < at.width; k++) pack.at[k] *= from.at[k] > 0 ? Acc<T>(1) : slope.at[k];
    store(dx, at, pack);
  });
}

// partial (strips, C): Σ min(x, 0) dy over strips of rows. A block for each COLUMNS places (grid x) of each (grid y).
template <typename T>
__global__ void strips(const T* x, const T* dy, Acc<T>* partial, long long rows, long long columns) {
  const auto product = [&](auto place, auto) {
    auto pack = load(x, place);
    const auto slope = load(dy, place);
    for (int k = 0; k < place.width; k++) pack.at[k] = (pack.at[k] > 0 ? Acc<T>(0) : pack.at[k]) * slope.at[k];
    return pack;
  };
  sum_columns<T>(aligned(x, dy), columns, strip_of_grid(rows), product, [&](auto at, const auto& sum) {
    for (int k = 0; k < at.width; k++) partial[blockIdx.y * columns + at.start + k] = sum.at[k];
  });
}

// dweight (width,): partial (n / width, width) added up. A block for each column.
template <typename T>
__global__ void add_strips(const Acc<T>* partial, T* dweight, long long width, long long n) {
  Acc<T> sum = 0;
  for (long long i = blockIdx.x + threadIdx.x * width; i < n; i += blockDim.x * width) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) dweight[blockIdx.x] = sum;
}
