// Layer and RMS norm of x (M, I), weight and bias (I,) or missing. RMS norm is layer norm whose mean is taken to be 0.
// Where there is an r (M, I), x + r is what is normalised, and s (M, I) becomes it.
#include "common.cuh"

// mean = Σx / I (0 unless `centred`), rstd = 1 / √(Σ(x - mean)² / I + eps), y = (x - mean) rstd weight + bias
// A block for each row. mean and rstd (M,) are kept.
template <typename T>
__global__ void forward(const T* x, const T* r, const T* weight, const T* bias, T* s, T* y, Acc<T>* mean, Acc<T>* rstd,
                        Acc<T> eps, int centred, long long width) {
  const long long row = blockIdx.x;
  x += row * width;
  y += row * width;
  bool wide = aligned(x, y, weight, bias);
  if (r) {
    r += row * width;
    s += row * width;
    wide = wide && aligned(r, s);
    over_block<T>(width, wide, [&](auto at) {
      auto pack = load(x, at);
      const auto other = load(r, at);
      for (int k = 0; k < at.width; k++) pack.at[k] += other.at[k];
      store(s, at, pack);
    });
    x = s;  // each thread reads what it wrote, from the nearest cache
  }
  Acc<T> centre = 0;
  if (centred) {
    Acc<T> total = 0;
    over_block<T>(width, wide, [&](auto at) {
      const auto from = load(x, at);
      for (int k = 0; k < at.width; k++) total += from.at[k];
    });
    centre = block_sum(total) / width;
  }
  Acc<T> squares = 0;  // two passes: E[x²] − E[x]² would cancel
  over_block<T>(width, wide, [&](auto at) {
    const auto from = load(x, at);
    for (int k = 0; k < at.width; k++) squares += (from.at[k] - centre) * (from.at[k] - centre);
  });
  const Acc<T> scale = 1 / sqrt(block_sum(squares) / width + eps);
  over_block<T>(width, wide, [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) pack.at[k] = (pack.at[k] - centre) * scale;
    if (weight) {
      const auto factor = load(weight, at);
      for (int k = 0; k < at.width; k++) pack.at[k] *= factor.at[k];
    }
    if (bias) {
      const auto shift = load(bias, at);
      for (int k = 0; k < at.width; k++) pack.at[k] += shift.at[k];
    }
    store(y, at, pack);
  });
  if (threadIdx.x == 0) {
    mean[row] = centre;
    rstd[row] = scale;
  }
}

// dx = rstd (dx̂ - Σdx̂ / I - x̂ Σ(dx̂ x̂) / I), x̂ = (x - mean) rstd, dx̂ = dy weight; the first sum 0 unless
// `centred`; plus ds (M, I) where it is not missing: what comes to x + r past the norm. A block for each row.
template <typename T>
__global__ void backward(const T* x, const T* weight, const Acc<T>* mean, const Acc<T>* rstd, const T* dy, const T* ds,
                         T* dx, int centred, long long width) {
  const long long row = blockIdx.x;
  x += row * width;
  dy += row * width;
  dx += row * width;
  if (ds) ds += row * width;
  const bool wide = aligned(x, dy, ds, dx, weight);
  const Acc<T> centre = mean[row], scale = rstd[row];
  Acc<T> total = 0, product = 0;
  over_block<T>(width, wide, [&](auto at) {
    const auto from = load(x, at);
    auto slope = load(dy, at);
    if (weight) {
      const auto factor = load(weight, at);
      for (int k = 0; k < at.width; k++) slope.at[k] *= factor.at[k];
    }
    for (int k = 0; k < at.width; k++) {
      total += slope.at[k];
      product += slope.at[k] * (from.at[k] - centre) * scale;
    }
  });
  total = centred ? block_sum(total) / width : Acc<T>(0);
  product = block_sum(product) / width;
  over_block<T>(width, wide, [&](auto at) {
    const auto from = load(x, at);
    auto slope = load(dy, at);
    if (weight) {
      const auto factor = load(weight, at);
      for (int k = 0; k < at.width; k++) slope.at[k] *= factor.at[k];
    }
    for (int k = 0; k < at.width; k++)
      slope.at[k] = scale * (slope.at[k] - total - (from.at[k] - centre) * scale * product);
    if (ds) {
      const auto past = load(ds, at);
      for (int k = 0; k < at.width; k++) slope.at[k] += past.at[k];
    }
    store(dx, at, slope);
  });
}

constexpr int COLUMNS = 32, LINES = 8;  // the block of column_sums

// Σ dy x̂ and Σ dy down the rows of a strip: partial (strips, 2, I)
// A block of COLUMNS by LINES threads for each COLUMNS columns (grid x) of each strip of rows (grid y).
template <typename T>
__global__ void column_sums(const T* x, const Acc<T>* mean, const Acc<T>* rstd, const T* dy, Acc<T>* partial,
                            long long rows, long long width) {
  __shared__ Acc<T> products[LINES][COLUMNS], totals[LINES][COLUMNS];
  const long long column = static_cast<long long>(blockIdx.x) * COLUMNS + threadIdx.x;
  Acc<T> product = 0, total = 0;
  if (column < width) {
    for (long long i = blockIdx.y * LINES + threadIdx.y; i < rows; i += gridDim.y * LINES) {
      const Acc<T> slope = dy[i * width + column];
      product += slope * (x[i * width + column] - mean[i]) * rstd[i];
      total += slope;
    }
  }
  products[threadIdx.y][threadIdx.x] = product;
  totals[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y > 0 || column >= width) return;
  for (int line = 1; line < LINES; line++) {
    product += products[line][threadIdx.x];
    total += totals[line][threadIdx.x];
  }
  partial[blockIdx.y * 2 * width + column] = product;
  partial[(blockIdx.y * 2 + 1) * width + column] = total;
}

// dweight and dbias (I,), each where it is not missing: partial (strips, 2, I) summed over the strips, in their order
template <typename T>
__global__ void add_strips(const Acc<T>* partial, T* dweight, T* dbias, int strips, long long width) {
  const long long column = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= width) return;
  Acc<T> product = 0, total = 0;
  for (int strip = 0; strip < strips; strip++) {
    product += partial[strip * 2 * width + column];
    total += partial[(strip * 2 + 1) * width + column];
  }
  if (dweight) dweight[column] = product;
  if (dbias) dbias[column] = total;
}
