// How losses count; see ops/totals.py. It needs common.cuh before it.

// What an element counts: the product of weight (k,) and mask (l,), which stand on the leading axes of n elements, one
// value for n / k, and n / l, of them in a row; 1 for a missing one.
template <typename T>
struct Counts {
  const T* weight;
  const bool* mask;
  long long weight_again, mask_again;

  __device__ Acc<T> at(long long i) const {
    Acc<T> count = 1;
    if (weight) count *= weight[i / weight_again];
    if (mask && !mask[i / mask_again]) count *= 0;  // not 0 itself: a NaN weight is seen
    return count;
  }
};

// What a position counts: its class, its count, and that times its class's weight. Formulas: ops/totals.py.
template <typename A>
struct Position {
  long long c;
  A each, weighted;
};

// Class 0 stands in for an ignored one, counted 0 times, so that its NaN shows; NaN for a class that there is not.
template <typename T>
__device__ Position<Acc<T>> position(long long row, const long long* target, long long ignored, long long classes,
                                     const T* class_weight, const Counts<T>& counts) {
  long long c = target[row];
  Acc<T> each = counts.at(row);
  if (c == ignored) {
    c = 0;
    each = 0;
  }
  if (c < 0 || c >= classes) {
    c = 0;
    each = sqrt(Acc<T>(-1));
  }
  return {c, each, class_weight ? each * class_weight[c] : each};
}

// total = Σ losses, weight = Σ counted, both () from (n,), added up in float64 by one block
template <typename T>
__global__ void add_up(const Acc<T>* losses, const Acc<T>* counted, Acc<T>* total, Acc<T>* weight, long long n) {
  double first = 0, second = 0;
  over_block<Acc<T>>(n, aligned(losses, counted), [&](auto at) {
    const auto loss = load(losses, at), count = load(counted, at);
    for (int k = 0; k < at.width; k++) {
      first += loss.at[k];
      second += count.at[k];
    }
  });
  first = block_sum(first);
  second = block_sum(second);
  if (threadIdx.x > 0) return;
  *total = first;
  *weight = second;
}
