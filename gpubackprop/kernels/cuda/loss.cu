// Losses of single numbers x (n,) with their targets, as (sum, weight). Formulas and sources: ops/loss.py, and
// ops/class_loss.py for binary_focal and kl_div.
#include "common.cuh"
#include "totals.cuh"

// Numbers that options give, and the weight of the positive side of a logit.
template <typename T>
struct Options {
  T a, b, c, positive;
};

// A distance is a loss of one number and its target, and its slope.

// (x - t)²
struct Square {
  template <typename T>
  __device__ static T value(T x, T t, Options<T>) { return (x - t) * (x - t); }
  template <typename T>
  __device__ static T slope(T x, T t, Options<T>) { return 2 * (x - t); }
};

// |x - t|
struct Absolute {
  template <typename T>
  __device__ static T value(T x, T t, Options<T>) { return fabs(x - t); }
  template <typename T>
  __device__ static T slope(T x, T t, Options<T>) {
    const T e = x - t;
    return e > 0 ? T(1) : e < 0 ? T(-1) : e;  // 0 and NaN are their own
  }
};

// e²/2 where |e| ≤ a, else a (|e| - a/2), times b
struct Huber {
  template <typename T>
  __device__ static T value(T x, T t, Options<T> o) {
    const T e = fabs(x - t), inner = e > o.a ? o.a : e;
    return inner * (e - T(0.5) * inner) * o.b;
  }
  template <typename T>
  __device__ static T slope(T x, T t, Options<T> o) {
    const T e = x - t;
    return (e > o.a ? o.a : e < -o.a ? -o.a : e) * o.b;
  }
};

// -log σ(x)
template <typename T>
__device__ T surprise(T x) {
  return log1p(exp(-fabs(x))) - (x < 0 ? x : T(0));
}

// -(p t log σ(x) + (1 - t) log(1 - σ(x))), p the weight of the positive
struct Cross {
  template <typename T>
  __device__ static T value(T x, T t, Options<T> o) {
    return (t * (o.positive - 1) + 1) * surprise(x) + (1 - t) * x;
  }
  template <typename T>
  __device__ static T slope(T x, T t, Options<T> o) {
    return (1 - t) - (t * (o.positive - 1) + 1) * logistic(-x);
  }
};

// -α (1 - p)^a log p, p = σ(±x) of being right; α is b for positives and c for negatives
struct Focal {
  template <typename T>
  __device__ static T value(T x, T t, Options<T> o) {
    const T z = t > T(0.5) ? x : -x;
    return pow(logistic(-z), o.a) * surprise(z) * (t > T(0.5) ? o.b : o.c);
  }
  template <typename T>
  __device__ static T slope(T x, T t, Options<T> o) {
    const T z = t > T(0.5) ? x : -x, rest = logistic(-z);
    const T dz = pow(rest, o.a) * (-o.a * (1 - rest) * surprise(z) - rest);
    return dz * (t > T(0.5) ? o.b : -o.c);
  }
};

// t (log t - x), 0 log 0 = 0
struct Divergence {
  template <typename T>
  __device__ static T value(T x, T t, Options<T>) { return t * (log(t > 0 ? t : T(1)) - x); }
  template <typename T>
  __device__ static T slope(T, T t, Options<T>) { return -t; }
};

// The same of log t
struct LogDivergence {
  template <typename T>
  __device__ static T value(T x, T t, Options<T>) { return exp(t) * (t - x); }
  template <typename T>
  __device__ static T slope(T, T t, Options<T>) { return -exp(t); }
};

// losses and counted (blocks,): what each block adds to the sum and to the weight. Of `each` elements in a row the
// first alone adds to the weight. positive (cycle,) or missing belongs to the last axes of x.
template <typename T, typename Distance>
__global__ void forward(const T* x, const T* target, const T* positive, const T* weight, const bool* mask,
                        Acc<T>* losses, Acc<T>* counted, Acc<T> a, Acc<T> b, Acc<T> c, long long cycle,
                        long long weight_again, long long mask_again, long long each, long long n) {
  const Counts<T> counts{weight, mask, weight_again, mask_again};
  Options<Acc<T>> options{a, b, c, 1};
  Acc<T> loss = 0, whole = 0;
  over_grid<T>(n, aligned(x, target), [&](auto at) {
    const auto from = load(x, at), to = load(target, at);
    for (int k = 0; k < at.width; k++) {
      const long long i = at.start + k;
      const Acc<T> count = counts.at(i);
      if (positive) options.positive = positive[i % cycle];
      loss += Distance::value(from.at[k], to.at[k], options) * count;
      if (each == 1 || i % each == 0) whole += count;
    }
  });
  loss = block_sum(loss);
  whole = block_sum(whole);
  if (threadIdx.x > 0) return;
  losses[blockIdx.x] = loss;
  counted[blockIdx.x] = whole;
}

// dx = slope count dy; dy (1,)
template <typename T, typename Distance>
__global__ void backward(const T* x, const T* target, const T* positive, const T* weight, const bool* mask,
                         const Acc<T>* dy, T* dx, Acc<T> a, Acc<T> b, Acc<T> c, long long cycle, long long weight_again,
                         long long mask_again, long long n) {
  const Counts<T> counts{weight, mask, weight_again, mask_again};
  Options<Acc<T>> options{a, b, c, 1};
  const Acc<T> factor = dy[0];
  over_grid<T>(n, aligned(x, target, dx), [&](auto at) {
    const auto from = load(x, at);
    auto pack = load(target, at);
    for (int k = 0; k < at.width; k++) {
      const long long i = at.start + k;
      if (positive) options.positive = positive[i % cycle];
      pack.at[k] = Distance::slope(from.at[k], pack.at[k], options) * (counts.at(i) * factor);
    }
    store(dx, at, pack);
  });
}
