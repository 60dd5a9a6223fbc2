// Update rules, in one launch for all params: a block for each chunk of the flat buffers. `scalars` are a step's
// coefficients: they are read here, so that a launch that is replayed sees those of its own step. Formulas: optim/*.py.
#include "common.cuh"
#include "chunks.cuh"

// What a rule is made of: its row of `scalars`, numbers that never change, a choice, and which states there are.
template <typename T>
struct Options {
  const T* scalars;
  T a, b, c;
  int form;
  bool second, third;
};

// A rule takes a number w, its gradient g and up to three states. What is not decayed has a weight decay of 0, or 1 as
// the factor of w.

// g ← g + decay·w;  v ← momentum·v + share·g;  w ← w - lr·v  (form 1, nesterov: w - lr·(g + momentum·v))
// scalars: lr, decay, momentum, share
template <typename T>
struct Momentum {
  static constexpr int states = 1;
  T lr, pull, momentum, share;
  bool nesterov;
  __device__ Momentum(const Options<T>& o)
      : lr(o.scalars[0]), pull(o.scalars[1]), momentum(o.scalars[2]), share(o.scalars[3]), nesterov(o.form) {}
  __device__ void operator()(T& w, T g, T& v, T&, T&) const {
    g += pull * w;
    v = momentum * v + share * g;
    w -= lr * (nesterov ? g + momentum * v : v);
  }
};

// w ← w - lr·(g + decay·w);  scalars: lr, decay
template <typename T>
struct Descent {
  static constexpr int states = 0;
  T lr, pull;
  __device__ Descent(const Options<T>& o) : lr(o.scalars[0]), pull(o.scalars[1]) {}
  __device__ void operator()(T& w, T g, T&, T&, T&) const { w -= lr * (g + pull * w); }
};

// g ← g + decay·w, or (form 1, decoupled) w ← decay·w;  m ← m + share·(g - m);  v ← β₂·v + (1 - β₂)·g²
// w ← w - (of_mean·m + of_grad·g) / (of_root·√v + plus)  (with a third state, AMSGrad: of the largest v so far)
// a, b, c: β₂, 1 - β₂, eps
template <typename T>
struct Moments {
  static constexpr int states = 3;
  T keep, pull, share, beta2, rest, of_mean, of_grad = 0, of_root, plus;
  bool amsgrad;
  __device__ Moments(const Options<T>& o, T share, T decay)
      : keep(o.form ? decay : T(1)), pull(o.form ? T(0) : decay), share(share), beta2(o.a), rest(o.b), plus(o.c),
        amsgrad(o.third) {}
  __device__ void operator()(T& w, T g, T& m, T& v, T& top) const {
    w *= keep;
    g += pull * w;
    m += share * (g - m);
    v = beta2 * v + rest * (g * g);
    top = amsgrad && v <= top ? top : v;  // so that a NaN gets through
    w -= (of_mean * m + of_grad * g) / (of_root * sqrt(top) + plus);
  }
};

// scalars: step, share, correction, decay
template <typename T>
struct Adam : Moments<T> {
  __device__ Adam(const Options<T>& o) : Moments<T>(o, o.scalars[1], o.scalars[3]) {
    this->of_mean = o.scalars[0];
    this->of_root = 1 / o.scalars[2];
  }
};

// scalars: of_mean, of_grad, share, correction, decay
template <typename T>
struct Nadam : Moments<T> {
  __device__ Nadam(const Options<T>& o) : Moments<T>(o, o.scalars[2], o.scalars[4]) {
    this->of_mean = o.scalars[0];
    this->of_grad = o.scalars[1];
    this->of_root = 1 / o.scalars[3];
  }
};

// scalars: step, whether to divide (1 or 0), share, decay
template <typename T>
struct Radam : Moments<T> {
  __device__ Radam(const Options<T>& o) : Moments<T>(o, o.scalars[2], o.scalars[3]) {
    this->of_mean = o.scalars[0];
    this->of_root = o.scalars[1];
    this->plus = o.scalars[1] * o.c + (1 - o.scalars[1]);
  }
};

// w ← keep·w - lr·sign(m + share·(g - m));  m ← m + (1 - β₂)·(g - m);  scalars: lr, share, keep;  a: 1 - β₂
template <typename T>
struct Lion {
  static constexpr int states = 1;
  T lr, share, keep, rest;
  __device__ Lion(const Options<T>& o) : lr(o.scalars[0]), share(o.scalars[1]), keep(o.scalars[2]), rest(o.a) {}
  __device__ void operator()(T& w, T g, T& m, T&, T&) const {
    const T direction = m + share * (g - m);
    const T sign = direction > 0 ? T(1) : direction < 0 ? T(-1) : direction;  // 0 and NaN are their own
    w = keep * w - lr * sign;
    m += rest * (g - m);
  }
};

// g ← g + decay·w;  s ← s + g²;  w ← w - step·g / (√s + eps);  scalars: step, decay;  a: eps
template <typename T>
struct Adagrad {
  static constexpr int states = 1;
  T step, pull, eps;
  __device__ Adagrad(const Options<T>& o) : step(o.scalars[0]), pull(o.scalars[1]), eps(o.a) {}
  __device__ void operator()(T& w, T g, T& s, T&, T&) const {
    g += pull * w;
    s += g * g;
    w -= step * g / (sqrt(s) + eps);
  }
};

// g ← g + decay·w;  s ← rho·s + (1 - rho)·g²;  d = √(u + eps) / √(s + eps)·g;  u ← rho·u + (1 - rho)·d²;  w ← w - lr·d
// scalars: lr, decay;  a, b, c: rho, 1 - rho, eps
template <typename T>
struct Adadelta {
  static constexpr int states = 2;
  T lr, pull, rho, rest, eps;
  __device__ Adadelta(const Options<T>& o) : lr(o.scalars[0]), pull(o.scalars[1]), rho(o.a), rest(o.b), eps(o.c) {}
  __device__ void operator()(T& w, T g, T& s, T& u, T&) const {
    g += pull * w;
    s = rho * s + rest * (g * g);
    const T d = sqrt(u + eps) / sqrt(s + eps) * g;
    u = rho * u + rest * (d * d);
    w -= lr * d;
  }
};

// g ← g + decay·w;  s ← alpha·s + (1 - alpha)·g²;  m ← m + (1 - alpha)·(g - m) and s - m² for s, where there is a
// second state;  d = g / (√s + eps);  b ← momentum·b + d and b for d, where there is a third;  w ← w - lr·d
// scalars: lr, decay, momentum;  a, b, c: alpha, 1 - alpha, eps
template <typename T>
struct RMSprop {
  static constexpr int states = 3;
  T lr, pull, momentum, alpha, rest, eps;
  bool centred, moved;
  __device__ RMSprop(const Options<T>& o)
      : lr(o.scalars[0]), pull(o.scalars[1]), momentum(o.scalars[2]), alpha(o.a), rest(o.b), eps(o.c),
        centred(o.second), moved(o.third) {}
  __device__ void operator()(T& w, T g, T& s, T& m, T& b) const {
    g += pull * w;
    s = alpha * s + rest * (g * g);
    T spread = s;
    if (centred) {
      m += rest * (g - m);
      // A variance; rounding can make it negative, which would be NaN under the root.
      spread = s - m * m;
      spread = spread < 0 ? T(0) : spread;
    }
    T d = g / (sqrt(spread) + eps);
    if (moved) d = b = momentum * b + d;
    w -= lr * d;
  }
};

// slow ← slow + alpha·(w - slow), w ← slow, where alpha is above 0;  scalars: alpha
template <typename T>
struct Lookahead {
  static constexpr int states = 1;
  T alpha;
  __device__ Lookahead(const Options<T>& o) : alpha(o.scalars[0]) {}
  __device__ void operator()(T& w, T, T& slow, T&, T&) const {
    slow += alpha * (w - slow);
    w = alpha > 0 ? slow : w;
  }
};

// All arrays of numbers (P,), states that there are none of missing; scalars (settings, width). The params' working copy
// `value` is written beside master, unless it is missing. Nothing happens where not ok.
template <typename T, template <typename> class Rule>
__global__ void update(const long long* chunks, Acc<T>* master, T* value, const Acc<T>* grad, Acc<T>* first,
                       Acc<T>* second, Acc<T>* third, const Acc<T>* scalars, const bool* ok, Acc<T> a, Acc<T> b,
                       Acc<T> c, int form, int width) {
  if (ok && !*ok) return;
  constexpr int states = Rule<Acc<T>>::states;
  const Chunk chunk = chunk_of(chunks);
  const Rule<Acc<T>> rule({scalars + chunk.setting * width, a, b, c, form, second != nullptr, third != nullptr});
  over_block<Acc<T>>(chunk.count, aligned(master, value, grad, first, second, third), [&](auto at) {
    at.start += chunk.start;
    auto w = load(master, at), s = w, t = w, u = w;
    const auto g = load(grad, at);
    if (states > 0) s = load(first, at);
    if (states > 1 && second) t = load(second, at);
    if (states > 2 && third) u = load(third, at);
    for (int k = 0; k < at.width; k++) rule(w.at[k], g.at[k], s.at[k], t.at[k], u.at[k]);
    store(master, at, w);
    if (value) store(value, at, w);
    if (states > 0) store(first, at, s);
    if (states > 1 && second) store(second, at, t);
    if (states > 2 && third) store(third, at, u);
  });
}

// mean ← mean + share·(value - mean); mean and value (P,), share one number
template <typename T>
__global__ void follow(T* mean, const T* value, const T* share, long long n) {
  const T part = *share;
  over_grid<T>(n, aligned(mean, value), [&](auto at) {
    auto m = load(mean, at);
    const auto w = load(value, at);
    for (int k = 0; k < at.width; k++) m.at[k] += part * (w.at[k] - m.at[k]);
    store(mean, at, m);
  });
}
