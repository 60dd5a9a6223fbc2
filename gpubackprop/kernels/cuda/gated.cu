// A value times a gate: each half of the features along an axis. Formulas: ops/gated.py.
#include "common.cuh"

// a σ(c); σ(c) dy and a σ(c) (1 - σ(c)) dy
struct Glu {
  template <typename T>
  __device__ static T value(T a, T c) { return a * logistic(c); }
  template <typename T>
  __device__ static void slopes(T a, T c, T& da, T& dc) {
    const T s = logistic(c);
    da = s;
    dc = a * s * (1 - s);
  }
};

// a σ(a) c; σ (1 + a (1 - σ)) c dy and a σ dy
struct SwiGlu {
  template <typename T>
  __device__ static T value(T a, T c) { return a * logistic(a) * c; }
  template <typename T>
  __device__ static void slopes(T a, T c, T& da, T& dc) {
    const T s = logistic(a);
    da = s * c * (1 + a * (1 - s));
    dc = a * s;
  }
};

// y (L, R) of x (L, 2, R) = [a, c]; n = L·R
template <typename T, typename Gate>
__global__ void forward(const T* x, T* y, long long half, long long n) {
  over_grid<T>(n, half % (16 / sizeof(T)) == 0 && aligned(x, y), [&](auto at) {
    const Place<at.width> first{at.start + at.start / half * half}, second{first.start + half};
    auto pack = load(x, first);
    const auto gate = load(x, second);
    for (int k = 0; k < at.width; k++) pack.at[k] = Gate::value(pack.at[k], gate.at[k]);
    store(y, at, pack);
  });
}

// dx (L, 2, R) of dy (L, R)
template <typename T, typename Gate>
__global__ void backward(const T* x, const T* dy, T* dx, long long half, long long n) {
  over_grid<T>(n, half % (16 / sizeof(T)) == 0 && aligned(x, dy, dx), [&](auto at) {
    const Place<at.width> first{at.start + at.start / half * half}, second{first.start + half};
    auto a = load(x, first), c = load(x, second);
    const auto slope = load(dy, at);
    for (int k = 0; k < at.width; k++) {
      Gate::slopes(a.at[k], c.at[k], a.at[k], c.at[k]);
      a.at[k] *= slope.at[k];
      c.at[k] *= slope.at[k];
    }
    store(dx, first, a);
    store(dx, second, c);
  });
}
