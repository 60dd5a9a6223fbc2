// Cross-entropy and focal loss of logits (M, V) and classes (M,). The backward pass takes the exponentials again, which
// costs less than keeping the probabilities; a row's largest and sum are kept. gamma is below 0 for cross-entropy.
#include "common.cuh"
#include "totals.cuh"

// The sum of the classes' weights, over the block.
template <typename T>
__device__ Acc<T> mass_of(const T* class_weight, long long classes) {
  if (!class_weight) return classes;
  Acc<T> mass = 0;
  for (long long j = threadIdx.x; j < classes; j += blockDim.x) mass += class_weight[j];
  return block_sum(mass);
}

// By how much more than cross-entropy's the focal loss (1 - p)^γ (-log p) falls with log p; surprise = -log p.
template <typename A>
__device__ A steepness(A surprise, A gamma) {
  const A rest = -expm1(-surprise);
  return pow(rest, gamma) * (1 + gamma * exp(-surprise) * (rest > 0 ? surprise / rest : A(0)));
}

// With s = x - peak, Z = Σ eˢ: loss = w_t (1 - ε) (log Z - s_t) + ε/V (log Z Σ_j w_j - Σ_j w_j s_j) each
// A block for each row; losses and counted (M,) are what it adds to the sum and to the weight; peaks and totals (M,) are
// kept.
template <typename T>
__global__ void forward(const T* logits, const long long* target, const T* class_weight, const T* weight,
                        const bool* mask, Acc<T>* peaks, Acc<T>* totals, Acc<T>* losses, Acc<T>* counted,
                        Acc<T> smoothing, Acc<T> gamma, long long ignored, long long weight_again,
                        long long mask_again, long long classes) {
  const long long row = blockIdx.x;
  const T* x = logits + row * classes;
  const bool wide = aligned(x, class_weight);
  Exponentials<Acc<T>> parts;
  over_block<T>(classes, wide, [&](auto at) { parts.add(load(x, at)); });
  parts.join();
  const Acc<T> peak = parts.peak, total = parts.total;
  Acc<T> spread = 0;
  if (smoothing > 0) {
    Acc<T> shifted = 0;
    over_block<T>(classes, wide, [&](auto at) {
      auto pack = load(x, at);
      for (int k = 0; k < at.width; k++) pack.at[k] -= peak;
      if (class_weight) {
        const auto factor = load(class_weight, at);
        for (int k = 0; k < at.width; k++) pack.at[k] *= factor.at[k];
      }
      for (int k = 0; k < at.width; k++) shifted += pack.at[k];
    });
    spread = log(total) * mass_of(class_weight, classes) - block_sum(shifted);
  }
  if (threadIdx.x > 0) return;
  const Counts<T> counts{weight, mask, weight_again, mask_again};
  const Position<Acc<T>> own = position(row, target, ignored, classes, class_weight, counts);
  peaks[row] = peak;
  totals[row] = total;
  const Acc<T> surprise = log(total) - (x[own.c] - peak);
  losses[row] = surprise * own.weighted * (1 - smoothing);
  if (gamma >= 0) losses[row] *= pow(-expm1(-surprise), gamma);
  if (smoothing > 0) losses[row] += spread * own.each * smoothing / classes;
  counted[row] = gamma >= 0 ? own.each : own.weighted;  // focal loss's alpha does not count
}

// dx_j = p_j (hit + spread Σ_k w_k) - spread w_j, hit less at the position's own class;
// p = eˢ / Z, hit = w_t (1 - ε) dy, spread = each ε/V dy. A block for each row; dy (1,).
template <typename T>
__global__ void backward(const T* logits, const long long* target, const T* class_weight, const T* weight,
                         const bool* mask, const Acc<T>* peaks, const Acc<T>* totals, const Acc<T>* dy, T* dlogits,
                         Acc<T> smoothing, Acc<T> gamma, long long ignored, long long weight_again,
                        long long mask_again, long long classes) {
  const long long row = blockIdx.x;
  const T* x = logits + row * classes;
  T* dx = dlogits + row * classes;
  const Counts<T> counts{weight, mask, weight_again, mask_again};
  const Position<Acc<T>> own = position(row, target, ignored, classes, class_weight, counts);
  const Acc<T> peak = peaks[row];
  Acc<T> hit = own.weighted * (1 - smoothing) * dy[0];
  if (gamma >= 0) hit *= steepness(log(totals[row]) - (x[own.c] - peak), gamma);
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
