// Running statistics (C,), moved towards those of a batch by one block. Formulas: ops/norm.py, ops/sample_norm.py.
#include "common.cuh"

// running ← running + share (new - running), new the mean over N samples of mean and of var count / (count - 1), (N, C)
// count: `counts` (N, C), or the number where they are missing. share: the momentum, or where that is negative 1 / batches
// so far. tracked (), if it is there, counts these; then a batch of less than two values per channel changes nothing.
template <typename T>
__global__ void move(T* running_mean, T* running_var, long long* tracked, const T* mean, const T* var, const T* counts,
                     T count, T momentum, int samples, long long channels) {
  const bool some = !tracked || !counts || counts[0] > 1;
  const long long batches = tracked ? *tracked + some : 0;
  __syncthreads();  // all have read it
  if (tracked && threadIdx.x == 0) *tracked = batches;
  if (!some) return;
  const T share = momentum >= 0 ? momentum : T(1) / batches;
  for (long long c = threadIdx.x; c < channels; c += blockDim.x) {
    T new_mean = 0, new_var = 0;
    for (int n = 0; n < samples; n++) {
      const T own = counts ? counts[n * channels + c] : count;
      new_mean += mean[n * channels + c];
      new_var += var[n * channels + c] * (own / (own > 2 ? own - 1 : T(1)));
    }
    running_mean[c] += share * (new_mean / samples - running_mean[c]);
    running_var[c] += share * (new_var / samples - running_var[c]);
  }
}
