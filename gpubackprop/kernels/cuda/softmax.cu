// Softmax of rows of x (M, V), and its logarithm. A row is read again, from the first cache, rather than kept in
// registers.
#include "common.cuh"

// y = eˢ / Z, or its logarithm s - log Z; s = x - peak, Z = Σ eˢ
// A row of threads for each row.
template <typename T, bool LOGARITHM>
__global__ void forward(const T* x, T* y, long long rows, long long width) {
  const long long row = row_of_threads();
  if (row >= rows) return;
  x += row * width;
  y += row * width;
  const bool wide = aligned(x, y);
  Exponentials<Acc<T>> parts;
  over_block<T>(width, wide, [&](auto at) { parts.add(load(x, at)); });
  parts.join();
  const Acc<T> peak = parts.peak, last = LOGARITHM ? log(parts.total) : 1 / parts.total;
  over_block<T>(width, wide, [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++)
      pack.at[k] = LOGARITHM ? pack.at[k] - peak - last : exp(pack.at[k] - peak) * last;
    store(y, at, pack);
  });
}

// dx = y (dy - Σ y dy), of the logarithm dy - eʸ Σ dy; all (M, V)
// A row of threads for each row.
template <typename T, bool LOGARITHM>
__global__ void backward(const T* y, const T* dy, T* dx, long long rows, long long width) {
  const long long row = row_of_threads();
  if (row >= rows) return;
  y += row * width;
  dy += row * width;
  dx += row * width;
  const bool wide = aligned(y, dy, dx);
  Acc<T> total = 0;
  over_block<T>(width, wide, [&](auto at) {
    const auto slope = load(dy, at);
    if (LOGARITHM) {
      for (int k = 0; k < at.width; k++) total += slope.at[k];
    } else {
      const auto own = load(y, at);
      for (int k = 0; k < at.width; k++) total += own.at[k] * slope.at[k];
    }
  });
  total = block_sum(total);
  over_block<T>(width, wide, [&](auto at) {
    const auto own = load(y, at);
    auto slope = load(dy, at);
    for (int k = 0; k < at.width; k++)
      slope.at[k] = LOGARITHM ? slope.at[k] - exp(own.at[k]) * total : own.at[k] * (slope.at[k] - total);
    store(dx, at, slope);
  });
}
