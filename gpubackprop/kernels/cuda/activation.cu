// Elementwise functions and their slopes. Formulas and sources: ops/activation.py.
#include "common.cuh"

// 1 / (1 + e⁻ˣ), without overflow, and with full relative precision where it is small.
template <typename T>
__device__ T logistic(T x) {
  const T e = exp(-fabs(x));
  return (x >= 0 ? T(1) : x < 0 ? e : x) / (1 + e);  // a NaN is neither
}

// A curve gives y from x, and its slope from what activation.py keeps for it: x or y.

// max(x, 0)
struct Relu {
  template <typename T>
  __device__ static T value(T x) { return x <= 0 ? T(0) : x; }
  template <typename T>
  __device__ static T slope(T y) { return y > 0 ? T(1) : T(0); }
};

// σ(x); y (1 - y)
struct Sigmoid {
  template <typename T>
  __device__ static T value(T x) { return logistic(x); }
  template <typename T>
  __device__ static T slope(T y) { return y * (1 - y); }
};

// tanh x; 1 - y²
struct Tanh {
  template <typename T>
  __device__ static T value(T x) { return tanh(x); }
  template <typename T>
  __device__ static T slope(T y) { return 1 - y * y; }
};

// x σ(x); σ (1 + x (1 - σ))
struct Silu {
  template <typename T>
  __device__ static T value(T x) { return x * logistic(x); }
  template <typename T>
  __device__ static T slope(T x) {
    const T s = logistic(x);
    return s * (1 + x * (1 - s));
  }
};

// x Φ(x), Φ = (1 + erf(x / √2)) / 2; Φ + x φ
struct Gelu {
  template <typename T>
  __device__ static T cdf(T x) { return T(0.5) * (1 + erf(x * T(0.70710678118654752))); }
  template <typename T>
  __device__ static T value(T x) { return x * cdf(x); }
  template <typename T>
  __device__ static T slope(T x) { return cdf(x) + x * T(0.39894228040143268) * exp(T(-0.5) * x * x); }
};

// x Φ(x), Φ ≈ (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³); Φ + 2 x Φ (1 - Φ) u'
struct GeluTanh {
  template <typename T>
  __device__ static T cdf(T x) {
    return T(0.5) * (1 + tanh(T(0.79788456080286536) * x * (1 + T(0.044715) * x * x)));
  }
  template <typename T>
  __device__ static T value(T x) { return x * cdf(x); }
  template <typename T>
  __device__ static T slope(T x) {
    const T p = cdf(x);
    return p + 2 * x * p * (1 - p) * T(0.79788456080286536) * (1 + T(3 * 0.044715) * x * x);
  }
};

// y = curve(x); all (n,)
template <typename T, typename Curve>
__global__ void forward(const T* x, T* y, long long n) {
  over_grid<T>(n, aligned(x, y), [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) pack.at[k] = Curve::value(pack.at[k]);
    store(y, at, pack);
  });
}

// dx = curve'(kept) dy; all (n,)
template <typename T, typename Curve>
__global__ void backward(const T* kept, const T* dy, T* dx, long long n) {
  over_grid<T>(n, aligned(kept, dy, dx), [&](auto at) {
    const auto from = load(kept, at);
    auto pack = load(dy, at);
    for (int k = 0; k < at.width; k++) pack.at[k] *= Curve::slope(from.at[k]);
    store(dx, at, pack);
  });
}
