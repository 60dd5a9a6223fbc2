// Cross-entropy of logits (M, V) and classes (M,). The backward pass takes the exponentials again, which costs less than
// keeping the probabilities; a row's largest and sum are kept.
#include "common.cuh"

// What a position counts: its class, its count, and that times its class's weight. Formulas: ops/totals.py.
template <typename A>
struct Position {
  long long c;
  A each, weighted;
};

// How positions count; missing arrays count 1. weight (k,) and mask (l,) stand on the leading axes of the M positions:
// one value for M / k, and M / l, of them in a row.
template <typename T>
struct Counts {
  const T *class_weight, *weight;
  const bool* mask;
  long long weight_again, mask_again, ignored;
};

// Class 0 stands in for an ignored one, counted 0 times, so that its NaN shows; NaN for a class that there is not.
template <typename T>
__device__ Position<Acc<T>> position(long long row, const long long* target, long long classes,
                                     const Counts<T>& counts) {
  long long c = target[row];
  Acc<T> each = 1;
  if (counts.weight) each *= counts.weight[row / counts.weight_again];
  if (counts.mask && !counts.mask[row / counts.mask_again]) each *= 0;
  if (c == counts.ignored) {
    c = 0;
    each = 0;
  }
  if (c < 0 || c >= classes) {
    c = 0;
    each = sqrt(Acc<T>(-1));
  }
  return {c, each, counts.class_weight ? each * counts.class_weight[c] : each};
}

// The sum of the classes' weights, over the block.
template <typename T>
__device__ Acc<T> mass_of(const T* class_weight, long long classes) {
  if (!class_weight) return classes;
  Acc<T> mass = 0;
  for (long long j = threadIdx.x; j < classes; j += blockDim.x) mass += class_weight[j];
  return block_sum(mass);
}

// With s = x - peak, Z = Σ eˢ: loss = w_t (1 - ε) (log Z - s_t) + ε/V (log Z Σ_j w_j - Σ_j w_j s_j) each
// A block for each row; losses and counted (M,) are what it adds to the sum and to the weight, peaks and totals (M,) kept.
template <typename T>
__global__ void forward(const T* logits, const long long* target, const T* class_weight, const T* weight,
                        const bool* mask, Acc<T>* peaks, Acc<T>* totals, Acc<T>* losses, Acc<T>* counted,
                        Acc<T> smoothing, long long ignored, long long weight_again, long long mask_again, long long classes) {
  const long long row = blockIdx.x;
  const T* x = logits + row * classes;
  const bool wide = aligned(x, class_weight);
  Acc<T> peak = x[0];
  over_block<T>(classes, wide, [&](auto at) {
    const auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) peak = Largest::join(peak, pack.at[k]);
  });
  peak = block_join<Largest>(peak);
  Acc<T> total = 0, shifted = 0;
  over_block<T>(classes, wide, [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) {
      pack.at[k] -= peak;
      total += exp(pack.at[k]);
    }
    if (smoothing > 0) {
      if (class_weight) {
        const auto factor = load(class_weight, at);
        for (int k = 0; k < at.width; k++) pack.at[k] *= factor.at[k];
      }
      for (int k = 0; k < at.width; k++) shifted += pack.at[k];
    }
  });
  total = block_sum(total);
  Acc<T> spread = 0;
  if (smoothing > 0) spread = log(total) * mass_of(class_weight, classes) - block_sum(shifted);
  if (threadIdx.x > 0) return;
  const Counts<T> counts{class_weight, weight, mask, weight_again, mask_again, ignored};
  const Position<Acc<T>> own = position(row, target, classes, counts);
  peaks[row] = peak;
  totals[row] = total;
  losses[row] = (log(total) - (x[own.c] - peak)) * own.weighted * (1 - smoothing);
  if (smoothing > 0) losses[row] += spread * own.each * smoothing / classes;
  counted[row] = own.weighted;
}

// dx_j = p_j (hit + spread Σ_k w_k) - spread w_j, hit less at the position's own class;
// p = eˢ / Z, hit = w_t (1 - ε) dy, spread = each ε/V dy. A block for each row; dy (1,).
template <typename T>
__global__ void backward(const T* logits, const long long* target, const T* class_weight, const T* weight,
                         const bool* mask, const Acc<T>* peaks, const Acc<T>* totals, const Acc<T>* dy, T* dlogits,
                         Acc<T> smoothing, long long ignored, long long weight_again, long long mask_again, long long classes) {
  const long long row = blockIdx.x;
  const T* x = logits + row * classes;
  T* dx = dlogits + row * classes;
  const Counts<T> counts{class_weight, weight, mask, weight_again, mask_again, ignored};
  const Position<Acc<T>> own = position(row, target, classes, counts);
  const Acc<T> peak = peaks[row], hit = own.weighted * (1 - smoothing) * dy[0];
  const Acc<T> spread = own.each * smoothing / classes * dy[0];
  const Acc<T> factor = (smoothing > 0 ? hit + spread * mass_of(class_weight, classes) : hit) / totals[row];
  over_block<T>(classes, aligned(x, dx, class_weight), [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) pack.at[k] = exp(pack.at[k] - peak) * factor;
    if (smoothing > 0) {
      Pack<Acc<T>, at.width> share;
      if (class_weight) share = load(class_weight, at);
      for (int k = 0; k < at.width; k++) pack.at[k] -= class_weight ? spread * share.at[k] : spread;
    }
    for (int k = 0; k < at.width; k++)
      if (at.start + k == own.c) pack.at[k] -= hit;
    store(dx, at, pack);
  });
}

// total = Σ losses, weight = Σ counted, both () from (n,), added up in float64 by one block
template <typename T>
__global__ void add_up(const Acc<T>* losses, const Acc<T>* counted, Acc<T>* total, Acc<T>* weight, long long n) {
  double first = 0, second = 0;
  for (long long i = threadIdx.x; i < n; i += blockDim.x) {
    first += losses[i];
    second += counted[i];
  }
  first = block_sum(first);
  second = block_sum(second);
  if (threadIdx.x > 0) return;
  *total = first;
  *weight = second;
}
