// What happens to a gradient before the update: clipping (optim/clip.py) and loss scaling (optim/scale.py).
#include "common.cuh"

// Σ x² by blocks of the grid: x (n,), partial (blocks,)
template <typename T>
__global__ void squares(const T* x, T* partial, long long n) {
  T total = 0;
  over_grid<T>(n, aligned(x), [&](auto at) {
    const auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) total += pack.at[k] * pack.at[k];
  });
  total = block_sum(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// √Σ partial, for each thread of the block
template <typename T>
__device__ T root(const T* partial, int parts) {
  T total = 0;
  for (int i = threadIdx.x; i < parts; i += blockDim.x) total += partial[i];
  return sqrt(block_sum(total));
}

// length ← √Σ partial; one block
template <typename T>
__global__ void norm(const T* partial, T* length, int parts) {
  const T found = root(partial, parts);
  if (threadIdx.x == 0) *length = found;
}

// x ← x·min(1, max_norm / (length + 1e-6)), length ← √Σ partial, which each block sums up for itself: the sums are few,
// and a launch in between would cost more.
template <typename T>
__global__ void clip_norm(T* x, const T* partial, T* length, int parts, T max_norm, long long n) {
  const T found = root(partial, parts);
  if (blockIdx.x == 0 && threadIdx.x == 0) *length = found;
  const T factor = max_norm / (found + T(1e-6));
  if (factor >= 1) return;  // a NaN goes on
  over_grid<T>(n, aligned(x), [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) pack.at[k] *= factor;
    store(x, at, pack);
  });
}

// x ← min(max(x, -limit), limit); a NaN stays
template <typename T>
__global__ void clip_value(T* x, T limit, long long n) {
  over_grid<T>(n, aligned(x), [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) {
      const T v = pack.at[k];
      pack.at[k] = v < -limit ? -limit : v > limit ? limit : v;
    }
    store(x, at, pack);
  });
}

// x ← x / scale; bad: whether any of it is not finite, by blocks: x (n,), bad (blocks,)
template <typename T>
__global__ void unscale(T* x, const float* scale, int* bad, long long n) {
  const T factor = 1 / *scale;
  int found = 0;
  over_grid<T>(n, aligned(x), [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) {
      pack.at[k] *= factor;
      found |= !(fabs(pack.at[k]) <= largest<T>());  // x - x might be one fma with the product
    }
    store(x, at, pack);
  });
  found = block_join<Largest>(found);
  if (threadIdx.x == 0) bad[blockIdx.x] = found;
}

// ok ← none of bad (parts,); one block
template <typename T>
__global__ void none(const int* bad, bool* ok, int parts) {
  int found = 0;
  for (int i = threadIdx.x; i < parts; i += blockDim.x) found |= bad[i];
  found = block_join<Largest>(found);
  if (threadIdx.x == 0) *ok = !found;
}

// The next step's scale; counts (3,): good steps since it changed, steps left out in a row, steps left out. One thread.
template <typename T>
__global__ void rescale(T* scale, int* counts, const bool* ok, T growth, T backoff, int interval, T smallest,
                        T largest) {
  T next = *scale;
  if (*ok) {
    counts[0]++;
    counts[1] = 0;
    if (counts[0] >= interval) {
      next *= growth;
      counts[0] = 0;
    }
  } else {
    next *= backoff;
    counts[0] = 0;
    counts[1]++;
    counts[2]++;
  }
  *scale = next < smallest ? smallest : next > largest ? largest : next;
}
