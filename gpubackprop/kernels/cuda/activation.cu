// Elementwise functions and their slopes. Formulas and sources: ops/activation.py, ops/rectified.py, ops/gated.py.
#include "common.cuh"

// A curve gives y from x, and its slope from what activation.py keeps for it: x or y. a and b are its options.

// max(x, 0)
struct Relu {
  template <typename T>
  __device__ static T value(T x, T, T) { return x <= 0 ? T(0) : x; }
  template <typename T>
  __device__ static T slope(T y, T, T) { return y > 0 ? T(1) : T(0); }
};

// x, or a x below 0
struct LeakyRelu {
  template <typename T>
  __device__ static T value(T x, T a, T) { return x > 0 ? x : a * x; }
  template <typename T>
  __device__ static T slope(T x, T a, T) { return x > 0 ? T(1) : a; }
};

// x, or a (eˣ - 1) below 0, times b; 1, or y + a there
struct Elu {
  template <typename T>
  __device__ static T value(T x, T a, T b) { return b * (x > 0 ? x : a * expm1(x)); }
  template <typename T>
  __device__ static T slope(T y, T a, T b) { return y > 0 ? b : y + a * b; }
};

// σ(x); y (1 - y)
struct Sigmoid {
  template <typename T>
  __device__ static T value(T x, T, T) { return logistic(x); }
  template <typename T>
  __device__ static T slope(T y, T, T) { return y * (1 - y); }
};

// tanh x; 1 - y²
struct Tanh {
  template <typename T>
  __device__ static T value(T x, T, T) { return tanh(x); }
  template <typename T>
  __device__ static T slope(T y, T, T) { return 1 - y * y; }
};

// x σ(x); σ (1 + x (1 - σ))
struct Silu {
  template <typename T>
  __device__ static T value(T x, T, T) { return x * logistic(x); }
  template <typename T>
  __device__ static T slope(T x, T, T) {
    const T s = logistic(x);
    return s * (1 + x * (1 - s));
  }
};

// x Φ(x), Φ = (1 + erf(x / √2)) / 2; Φ + x φ
struct Gelu {
  template <typename T>
  __device__ static T cdf(T x) { return T(0.5) * (1 + erf(x * T(0.70710678118654752))); }
  template <typename T>
  __device__ static T value(T x, T, T) { return x * cdf(x); }
  template <typename T>
  __device__ static T slope(T x, T, T) { return cdf(x) + x * T(0.39894228040143268) * exp(T(-0.5) * x * x); }
};

// x Φ(x), Φ ≈ (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³); Φ + 2 x Φ (1 - Φ) u'
struct GeluTanh {
  template <typename T>
  __device__ static T cdf(T x) {
    return T(0.5) * (1 + tanh(T(0.79788456080286536) * x * (1 + T(0.044715) * x * x)));
  }
  template <typename T>
  __device__ static T value(T x, T, T) { return x * cdf(x); }
  template <typename T>
  __device__ static T slope(T x, T, T) {
    const T p = cdf(x);
    return p + 2 * x * p * (1 - p) * T(0.79788456080286536) * (1 + T(3 * 0.044715) * x * x);
  }
};

// log(1 + eᵃˣ) / a, and x where a x > b; σ(a x), and 1 there
struct Softplus {
  template <typename T>
  __device__ static T value(T x, T a, T b) {
    const T z = a * x;
    return z > b ? x : ((z < 0 ? T(0) : z) + log1p(exp(-fabs(z)))) / a;
  }
  template <typename T>
  __device__ static T slope(T x, T a, T b) { return a * x > b ? T(1) : logistic(a * x); }
};

// x clipped to [a, b]; 1 between them
struct Hardtanh {
  template <typename T>
  __device__ static T value(T x, T a, T b) { return x < a ? a : x > b ? b : x; }
  template <typename T>
  __device__ static T slope(T x, T a, T b) { return x > a && x < b ? T(1) : T(0); }
};

// x / 6 + 1/2 clipped to [0, 1]; 1/6 where |x| < 3
struct Hardsigmoid {
  template <typename T>
  __device__ static T value(T x, T, T) { return (Hardtanh::value(x, T(-3), T(3)) + 3) / 6; }
  template <typename T>
  __device__ static T slope(T x, T, T) { return fabs(x) < 3 ? T(1) / 6 : T(0); }
};

// x (x + 3) / 6, the gate clipped to [0, 1]; x / 3 + 1/2 where |x| ≤ 3, else 0 or 1
struct Hardswish {
  template <typename T>
  __device__ static T value(T x, T, T) { return x * Hardsigmoid::value(x, T(0), T(0)); }
  template <typename T>
  __device__ static T slope(T x, T, T) { return fabs(x) <= 3 ? x / 3 + T(0.5) : x > 3 ? T(1) : T(0); }
};

// x g, g = tanh(log(1 + eˣ)) = n / (n + 2), n = e²ˣ + 2 eˣ, both divided by e²ˣ for x > 0; g + x σ(x) (1 - g²)
struct Mish {
  template <typename T>
  __device__ static T gate(T x) {
    const T e = exp(-fabs(x)), top = x > 0 ? 1 + 2 * e : e * (e + 2);
    return top / (top + 2 * (x > 0 ? e * e : T(1)));
  }
  template <typename T>
  __device__ static T value(T x, T, T) { return x * gate(x); }
  template <typename T>
  __device__ static T slope(T x, T, T) {
    const T g = gate(x);
    return g + x * logistic(x) * (1 - g * g);
  }
};

// y = curve(x); all (n,)
template <typename T, typename Curve>
__global__ void forward(const T* x, T* y, Acc<T> a, Acc<T> b, long long n) {
  over_grid<T>(n, aligned(x, y), [&](auto at) {
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) pack.at[k] = Curve::value(pack.at[k], a, b);
    store(y, at, pack);
  });
}

// dx = curve'(kept) dy; all (n,)
template <typename T, typename Curve>
__global__ void backward(const T* kept, const T* dy, T* dx, Acc<T> a, Acc<T> b, long long n) {
  over_grid<T>(n, aligned(kept, dy, dx), [&](auto at) {
    const auto from = load(kept, at);
    auto pack = load(dy, at);
    for (int k = 0; k < at.width; k++) pack.at[k] *= Curve::slope(from.at[k], a, b);
    store(dx, at, pack);
  });
}
