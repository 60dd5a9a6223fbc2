// Update rules over a stretch of the flat buffers, (P,) each. `scalars` are a step's coefficients: they are read here, so
// that a launch that is replayed sees those of its own step. Formulas: optim/*.py.
#include "common.cuh"

// g ← grad + decay·w;  v ← momentum·v + share·g;  w ← w - lr·v  (nesterov: w - lr·(g + momentum·v); no buffer: w - lr·g)
// scalars: lr, decay, momentum, share
template <typename T>
__global__ void sgd(T* value, const T* grad, T* buffer, const T* scalars, int decay, int nesterov, long long n) {
  const T lr = scalars[0], pull = decay ? scalars[1] : T(0), momentum = scalars[2], share = scalars[3];
  over_grid<T>(n, aligned(value, grad, buffer), [&](auto at) {
    auto w = load(value, at), g = load(grad, at);
    auto v = g;
    if (buffer) v = load(buffer, at);
    for (int k = 0; k < at.width; k++) {
      T step = g.at[k] + pull * w.at[k];
      if (buffer) {
        v.at[k] = momentum * v.at[k] + share * step;
        step = nesterov ? step + momentum * v.at[k] : v.at[k];
      }
      w.at[k] -= lr * step;
    }
    store(value, at, w);
    if (buffer) store(buffer, at, v);
  });
}

// g ← grad + decay·w, or, decoupled, w ← decay·w;  m ← m + share·(g - m);  v ← β₂·v + (1 - β₂)·g²
// w ← w - step·m / (√v / correction + eps)  (with `largest`, AMSGrad: of the largest v so far)
// scalars: step, share, correction, decay
template <typename T>
__global__ void adam(T* value, const T* grad, T* mean, T* square, T* largest, const T* scalars, T beta2, T rest, T eps,
                     int decay, int decoupled, long long n) {
  const T step = scalars[0], share = scalars[1], correction = scalars[2];
  const T keep = decay && decoupled ? scalars[3] : T(1), pull = decay && !decoupled ? scalars[3] : T(0);
  over_grid<T>(n, aligned(value, grad, mean, square, largest), [&](auto at) {
    auto w = load(value, at), m = load(mean, at), v = load(square, at);
    const auto g = load(grad, at);
    auto top = v;
    if (largest) top = load(largest, at);
    for (int k = 0; k < at.width; k++) {
      w.at[k] *= keep;
      const T slope = g.at[k] + pull * w.at[k];
      m.at[k] += share * (slope - m.at[k]);
      v.at[k] = beta2 * v.at[k] + rest * (slope * slope);
      top.at[k] = largest && v.at[k] <= top.at[k] ? top.at[k] : v.at[k];  // so that a NaN gets through
      w.at[k] -= step * m.at[k] / (sqrt(top.at[k]) / correction + eps);
    }
    store(value, at, w);
    store(mean, at, m);
    store(square, at, v);
    if (largest) store(largest, at, top);
  });
}
