// Padding filled. Formulas: ops/mask.py.
#include "common.cuh"

// y: x where the mask is true, else `value`; of dy and 0 it gives dx. mask (n / again,), for `again` numbers in a row each
template <typename T>
__global__ void fill(const T* x, const bool* mask, T* y, Acc<T> value, long long again, long long n) {
  over_grid<T>(n, again % (16 / sizeof(T)) == 0 && aligned(x, y), [&](auto at) {
    auto pack = load(x, at);
    if (!mask[at.start / again])
      for (int k = 0; k < at.width; k++) pack.at[k] = value;
    store(y, at, pack);
  });
}
