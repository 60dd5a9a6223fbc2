// One step of a recurrent layer between its products: elementwise on (N, H). The cells are ops/recurrent.py's.
//
// A thread works on one feature of one sample: a step of 64 samples and 512 features is but 128 blocks of 256 threads,
// so that packs would leave most of a GPU idle; neighbours read and write neighbours all the same.
#include "common.cuh"

// A feature's numbers, its gates being `size` apart: shares of the inputs and of the state (0 where missing), biases.
template <typename T>
struct Shares {
  const Acc<T>*inputs, *product;
  const T *bias_ih, *bias_hh;
  long long size;
  __device__ Acc<T> input(int gate) const {
    return inputs[gate * size] + (bias_ih ? Acc<T>(bias_ih[gate * size]) : Acc<T>(0));
  }
  __device__ Acc<T> state(int gate) const {
    return (product ? product[gate * size] : Acc<T>(0)) + (bias_hh ? Acc<T>(bias_hh[gate * size]) : Acc<T>(0));
  }
  __device__ Acc<T> sum(int gate) const { return input(gate) + state(gate); }
};

// A cell: step() makes the next h and c from those before and keeps gates and `extra`; slopes() turns dh and dc into
// those before the step, but for what the product with the state gives to dh, and sets the gates' gradients: da behind
// the product with the state, `first` behind the inputs' where that is another one.

// h = tanh a, or max(a, 0)
template <bool RELU>
struct Rnn {
  static constexpr int GATES = 1;
  template <typename T>
  __device__ static void step(const Shares<T>& from, Acc<T>* gates, Acc<T>*, Acc<T>& h, Acc<T>&) {
    const Acc<T> a = from.sum(0);
    h = RELU ? (a <= 0 ? Acc<T>(0) : a) : tanh(a);
    gates[0] = h;
  }
  template <typename T>
  __device__ static void slopes(const Acc<T>* gates, Acc<T>, Acc<T>, long long, T* da, T*, Acc<T>& dh, Acc<T>&) {
    const Acc<T> h = gates[0];
    da[0] = dh * (RELU ? (h > 0 ? Acc<T>(1) : Acc<T>(0)) : 1 - h * h);
    dh = 0;
  }
};

// c = f c + i g, h = o tanh c; c before the step is kept
struct Lstm {
  static constexpr int GATES = 4;
  template <typename T>
  __device__ static void step(const Shares<T>& from, Acc<T>* gates, Acc<T>* extra, Acc<T>& h, Acc<T>& c) {
    const Acc<T> a = from.sum(0), b = from.sum(1), d = from.sum(2), e = from.sum(3);  // all reads under way at once
    const Acc<T> i = logistic(a), f = logistic(b), g = tanh(d), o = logistic(e);
    *extra = c;
    c = f * c + i * g;
    h = o * tanh(c);
    gates[0] = i;
    gates[from.size] = f;
    gates[2 * from.size] = g;
    gates[3 * from.size] = o;
  }
  template <typename T>
  __device__ static void slopes(const Acc<T>* gates, Acc<T>, Acc<T> c, long long size, T* da, T*, Acc<T>& dh,
                                Acc<T>& dc) {
    const Acc<T> i = gates[0], f = gates[size], g = gates[2 * size], o = gates[3 * size];
    const Acc<T> y = tanh(f * c + i * g);
    const Acc<T> d = dc + dh * o * (1 - y * y);
    da[0] = d * g * i * (1 - i);
    da[size] = d * c * f * (1 - f);
    da[2 * size] = d * i * (1 - g * g);
    da[3 * size] = dh * y * o * (1 - o);
    dc = d * f;
    dh = 0;
  }
};

// n = tanh(p + r q), h = (1 - z) n + z h; q, the gate n's share of the state, is kept
struct Gru {
  static constexpr int GATES = 3;
  template <typename T>
  __device__ static void step(const Shares<T>& from, Acc<T>* gates, Acc<T>* extra, Acc<T>& h, Acc<T>&) {
    const Acc<T> a = from.sum(0), b = from.sum(1), p = from.input(2), q = from.state(2);  // reads first, as above
    const Acc<T> r = logistic(a), z = logistic(b), n = tanh(p + r * q);
    *extra = q;
    h = (1 - z) * n + z * h;
    gates[0] = r;
    gates[from.size] = z;
    gates[2 * from.size] = n;
  }
  template <typename T>
  __device__ static void slopes(const Acc<T>* gates, Acc<T> h, Acc<T> q, long long size, T* da, T* first, Acc<T>& dh,
                                Acc<T>&) {
    const Acc<T> r = gates[0], z = gates[size], n = gates[2 * size];
    const Acc<T> dn = dh * (1 - z) * (1 - n * n);
    first[0] = da[0] = dn * q * r * (1 - r);
    first[size] = da[size] = dh * (h - n) * z * (1 - z);
    first[2 * size] = dn;
    da[2 * size] = dn * r;
    dh *= z;
  }
};

// The step at position `at` of `steps`: gates (N, T, G) are the inputs' shares at first, product (N, G) or missing,
// biases (G,) or missing, real (N, T) or missing; h (N, H) and an LSTM's c (N, H) go on to the next step, and so does
// rounded (N, H), h for the product, which may be h itself. Kept are h before the step and extra; y (N, T, H).
// A thread for each sample (grid x) and feature (grid y).
template <typename T, typename Cell>
__global__ void forward(Acc<T>* gates, const Acc<T>* product, const T* bias_ih, const T* bias_hh, const bool* real,
                        T* before, Acc<T>* extra, Acc<T>* h, Acc<T>* c, T* rounded, T* y, long long at,
                        long long steps, long long size) {
  const long long j = static_cast<long long>(blockIdx.y) * blockDim.x + threadIdx.x, n = blockIdx.x;
  if (j >= size) return;
  const long long row = n * steps + at, own = n * size + j, kept = row * size + j;
  Acc<T> state = h[own], cell = c ? c[own] : Acc<T>(0);
  if (real && !real[row]) {
    before[kept] = state;
    if (extra) extra[kept] = 0;
    y[kept] = state * 0;  // padding; a NaN stays one
    rounded[own] = state;
    return;
  }
  const long long gate = row * Cell::GATES * size + j;
  const Shares<T> from{gates + gate, product ? product + n * Cell::GATES * size + j : nullptr,
                       bias_ih ? bias_ih + j : nullptr, bias_hh ? bias_hh + j : nullptr, size};
  const Acc<T> last = state;
  Cell::step(from, gates + gate, extra ? extra + kept : nullptr, state, cell);
  before[kept] = last;  // a write before the step would hold up its reads
  h[own] = state;
  rounded[own] = y[kept] = state;
  if (c) c[own] = cell;
}

// The same backwards: dy (N, T, H) or missing, da and first (N, T, G), the latter of a GRU; dh and dc (N, H) go on
// A thread for each sample (grid x) and feature (grid y).
template <typename T, typename Cell>
__global__ void backward(const Acc<T>* gates, const T* before, const Acc<T>* extra, const bool* real, const T* dy,
                         T* da, T* first, Acc<T>* dh, Acc<T>* dc, long long at, long long steps, long long size) {
  const long long j = static_cast<long long>(blockIdx.y) * blockDim.x + threadIdx.x, n = blockIdx.x;
  if (j >= size) return;
  const long long row = n * steps + at, own = n * size + j, kept = row * size + j;
  const long long gate = row * Cell::GATES * size + j;
  da += gate;
  if (first) first += gate;
  if (real && !real[row]) {  // no step was made: dh and dc stay
    for (int k = 0; k < Cell::GATES; k++) {
      da[k * size] = 0;
      if (first) first[k * size] = 0;
    }
    return;
  }
  Acc<T> slope = dh[own], cell_slope = dc ? dc[own] : Acc<T>(0);
  if (dy) slope += dy[kept];
  Cell::slopes(gates + gate, Acc<T>(before[kept]), extra ? extra[kept] : Acc<T>(0), size, da, first, slope,
               cell_slope);
  dh[own] = slope;
  if (dc) dc[own] = cell_slope;
}
