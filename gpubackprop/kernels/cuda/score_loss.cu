// Losses of scores x (M, V) and classes (M,) that take no exponentials. Formulas: ops/class_loss.py.
#include "common.cuh"
#include "totals.cuh"

// losses and counted (M,): -x_t weighted, and weighted
template <typename T>
__global__ void nll(const T* x, const long long* target, const T* class_weight, const T* weight, const bool* mask,
                    Acc<T>* losses, Acc<T>* counted, long long ignored, long long weight_again, long long mask_again,
                    long long classes, long long rows) {
  const Counts<T> counts{weight, mask, weight_again, mask_again};
  over_grid<T>(rows, false, [&](auto at) {
    const auto own = position(at.start, target, ignored, classes, class_weight, counts);
    losses[at.start] = -x[at.start * classes + own.c] * own.weighted;
    counted[at.start] = own.weighted;
  });
}

// dx = -weighted dy at a position's class, else 0. A block for each row; dy (1,).
template <typename T>
__global__ void nll_backward(const long long* target, const T* class_weight, const T* weight, const bool* mask,
                             const Acc<T>* dy, T* dx, long long ignored, long long weight_again, long long mask_again,
                             long long classes) {
  dx += blockIdx.x * classes;
  const Counts<T> counts{weight, mask, weight_again, mask_again};
  const auto own = position(blockIdx.x, target, ignored, classes, class_weight, counts);
  over_block<T>(classes, aligned(dx), [&](auto at) {
    Pack<Acc<T>, at.width> pack;
    for (int k = 0; k < at.width; k++) pack.at[k] = at.start + k == own.c ? -own.weighted * dy[0] : Acc<T>(0);
    store(dx, at, pack);
  });
}

// max(0, x_j - x_t + margin), 0 for the class t itself
template <typename A>
__device__ A excess(A x, A margin, bool itself) {
  return itself || x + margin <= 0 ? A(0) : x + margin;
}

// losses (M,): weighted / V Σ_j excess^p, p 1 or 2; counted (M,): the counts without the classes' weights
// A block for each row.
template <typename T>
__global__ void hinge(const T* x, const long long* target, const T* class_weight, const T* weight, const bool* mask,
                      Acc<T>* losses, Acc<T>* counted, Acc<T> margin, int p, long long ignored, long long weight_again,
                      long long mask_again, long long classes) {
  x += blockIdx.x * classes;
  const Counts<T> counts{weight, mask, weight_again, mask_again};
  const auto own = position(blockIdx.x, target, ignored, classes, class_weight, counts);
  const Acc<T> right = x[own.c];
  Acc<T> loss = 0;
  over_block<T>(classes, aligned(x), [&](auto at) {
    const auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) {
      const Acc<T> over = excess(pack.at[k] - right, margin, at.start + k == own.c);
      loss += p == 1 ? over : over * over;
    }
  });
  loss = block_sum(loss);
  if (threadIdx.x > 0) return;
  losses[blockIdx.x] = loss * own.weighted / classes;
  counted[blockIdx.x] = own.each;
}

// dx_j = weighted / V p excess^(p-1) dy, and less their sum at the class itself. A block for each row; dy (1,).
template <typename T>
__global__ void hinge_backward(const T* x, const long long* target, const T* class_weight, const T* weight,
                               const bool* mask, const Acc<T>* dy, T* dx, Acc<T> margin, int p, long long ignored,
                               long long weight_again, long long mask_again, long long classes) {
  x += blockIdx.x * classes;
  dx += blockIdx.x * classes;
  const Counts<T> counts{weight, mask, weight_again, mask_again};
  const auto own = position(blockIdx.x, target, ignored, classes, class_weight, counts);
  const Acc<T> right = x[own.c], factor = own.weighted / classes * dy[0];
  Acc<T> total = 0;
  over_block<T>(classes, aligned(x, dx), [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) {
      const Acc<T> over = excess(pack.at[k] - right, margin, at.start + k == own.c);
      pack.at[k] = (p == 1 ? Acc<T>(over > 0) : 2 * over) * factor;
      total += pack.at[k];
    }
    store(dx, at, pack);
  });
  total = block_sum(total);
  __syncthreads();  // the class's own place is written to a second time
  if (threadIdx.x == 0) dx[own.c] = -total;
}
