// Pooling of images (N, *S, C) to (N, *P, C) along three axes, those that are missing of size 1. Formulas: ops/pool.py
// and ops/adaptive_pool.py. A thread has 16 bytes of channels of a cell (columns.cuh), forward of y, backward of x:
// there it collects from the windows that hold its cell, so nothing is added to by two, nor filled with zeros before.
#include "common.cuh"
#include "columns.cuh"

// Windows along an axis. Window p begins at cell p stride - before and has `kernel` cells, `dilation` apart; where
// kernel is 0 the windows are bins: p holds the cells ⌊p size / out⌋ to ⌈(p + 1) size / out⌉.
struct Axis {
  int size, out, kernel, stride, before, after, dilation;

  __device__ int first(int p) const {
    return kernel ? p * stride - before : static_cast<long long>(p) * size / out;
  }
  __device__ int cells(int p) const {
    return kernel ? kernel : (static_cast<long long>(p + 1) * size + out - 1) / out - first(p);
  }
  __device__ int most() const { return kernel ? kernel : (size + out - 1) / out + 1; }  // cells of any window

  // Of the cells of window p those in the image: `low` to before `high`.
  __device__ int low(int p) const { return first(p) < 0 ? divided(dilation - 1 - first(p), dilation) : 0; }
  __device__ int high(int p) const {
    const int left = divided(size - first(p) + dilation - 1, dilation);
    return left < cells(p) ? left : cells(p);
  }

  // Of the windows those that reach over cell i: `from` to before `to`; which of their cells it is, or -1.
  __device__ int from(int i) const {
    if (!kernel) return static_cast<long long>(i) * out / size;
    const int beyond = i + before - (kernel - 1) * dilation;
    return beyond > 0 ? divided(beyond + stride - 1, stride) : 0;
  }
  __device__ int to(int i) const {
    if (!kernel) return (static_cast<long long>(i + 1) * out + size - 1) / size;
    const int last = divided(i + before, stride) + 1;
    return last < out ? last : out;
  }
  __device__ int number(int i, int p) const {
    const int off = i - first(p);
    const int number = divided(off, dilation);
    return number * dilation == off ? number : -1;
  }

  // How many cells of window p count in its mean, the padding's too or not; never those behind the padding.
  __device__ int counted(int p, bool padding) const {
    if (!kernel) return cells(p);
    const int begin = first(p), end = begin + kernel;
    const int least = padding ? -before : 0, most = padding ? size + after : size;
    return (end < most ? end : most) - (begin > least ? begin : least);
  }
};

// A kernel's parameters have no structures: what an axis is given by, and the axis from it.
#define AXIS(n) int size##n, int out##n, int kernel##n, int stride##n, int before##n, int after##n, int dilation##n
#define AXES AXIS(0), AXIS(1), AXIS(2)
#define GIVEN(n) Axis{size##n, out##n, kernel##n, stride##n, before##n, after##n, dilation##n}
#define WINDOWS Windows{GIVEN(0), GIVEN(1), GIVEN(2)}

struct Windows {
  Axis a, b, c;

  // step(row of x, number in the window) for the cells of a window, the first of them first; `row` is y's
  template <typename Step>
  __device__ void over_window(unsigned row, Step step) const {
    const int r = row % c.out, q = row / c.out % b.out, p = row / c.out / b.out % a.out;
    const long long image = row / c.out / b.out / a.out;
    const int first = c.first(r), low = c.low(r), high = c.high(r);
    for (int i = a.low(p); i < a.high(p); i++)
      for (int j = b.low(q); j < b.high(q); j++) {
        const long long line = (image * a.size + a.first(p) + i * a.dilation) * b.size + b.first(q) + j * b.dilation;
        const int number = (i * b.most() + j) * c.most();
        for (int k = low; k < high; k++) step(line * c.size + first + k * c.dilation, number + k);
      }
  }

  // step(row of y, number in its window, p, q, r) for the windows that hold a cell; `row` is x's
  template <typename Step>
  __device__ void over_windows(unsigned row, Step step) const {
    const int k = row % c.size, j = row / c.size % b.size, i = row / c.size / b.size % a.size;
    const long long image = row / c.size / b.size / a.size;
    for (int p = a.from(i); p < a.to(i); p++)
      for (int q = b.from(j); q < b.to(j); q++)
        for (int r = c.from(k); r < c.to(k); r++) {
          const int one = a.number(i, p), two = b.number(j, q), three = c.number(k, r);
          if (one < 0 || two < 0 || three < 0) continue;
          step(((image * a.out + p) * b.out + q) * c.out + r, (one * b.most() + two) * c.most() + three, p, q, r);
        }
  }

  __device__ int counted(int p, int q, int r, bool padding) const {
    return a.counted(p, padding) * b.counted(q, padding) * c.counted(r, padding);
  }
};

// y, each window's largest value, and which of its cells has it, the first of equals: `winner` (N, *P, C). With it the
// backward pass reads a byte for each number of y, and neither x nor y again.
template <typename T, typename I>
__global__ void max_forward(const T* x, I* winner, T* y, AXES, long long channels, unsigned rows) {
  const auto at = own_channels<T>(channels, x, y, winner);
  const unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  if (at.count == 0 || row >= rows) return;
  Pack<Acc<T>, at.width> best;
  Pack<I, at.width> won;
  for (int k = 0; k < at.width; k++) {
    best.at[k] = log(Acc<T>(0));  // -∞
    won.at[k] = 0;
  }
  WINDOWS.over_window(row, [&](long long place, int number) {
    const auto from = load(x + place * channels, at);
    for (int k = 0; k < at.width; k++)
      if (best.at[k] == best.at[k] && !(from.at[k] <= best.at[k])) {  // so that the first NaN wins
        best.at[k] = from.at[k];
        won.at[k] = number;
      }
  });
  store(y + row * channels, at, best);
  store(winner + row * channels, at, won);
}

// dx, the sum of dy of those windows that the cell won
template <typename T, typename I>
__global__ void max_backward(const I* winner, const T* dy, T* dx, AXES, long long channels, unsigned rows) {
  const auto at = own_channels<T>(channels, winner, dy, dx);
  const unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  if (at.count == 0 || row >= rows) return;
  Pack<Acc<T>, at.width> total = {};
  WINDOWS.over_windows(row, [&](long long place, int number, int, int, int) {
    const auto won = load(winner + place * channels, at);
    const auto slope = load(dy + place * channels, at);
    for (int k = 0; k < at.width; k++)
      if (won.at[k] == number) total.at[k] += slope.at[k];
  });
  store(dx + row * channels, at, total);
}

// y, the mean of each window
template <typename T>
__global__ void average_forward(const T* x, T* y, AXES, int padding, long long channels, unsigned rows) {
  const auto at = own_channels<T>(channels, x, y);
  const unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  if (at.count == 0 || row >= rows) return;
  Pack<Acc<T>, at.width> total = {};
  WINDOWS.over_window(row, [&](long long place, int) {
    const auto from = load(x + place * channels, at);
    for (int k = 0; k < at.width; k++) total.at[k] += from.at[k];
  });
  const int r = row % out2, q = row / out2 % out1, p = row / out2 / out1 % out0;
  const Acc<T> share = Acc<T>(1) / WINDOWS.counted(p, q, r, padding);
  for (int k = 0; k < at.width; k++) total.at[k] *= share;
  store(y + row * channels, at, total);
}

// dx, the sum of the shares of dy of the cell's windows
template <typename T>
__global__ void average_backward(const T* dy, T* dx, AXES, int padding, long long channels, unsigned rows) {
  const auto at = own_channels<T>(channels, dy, dx);
  const unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  if (at.count == 0 || row >= rows) return;
  Pack<Acc<T>, at.width> total = {};
  const Windows windows = WINDOWS;
  windows.over_windows(row, [&](long long place, int, int p, int q, int r) {
    const auto slope = load(dy + place * channels, at);
    const Acc<T> share = Acc<T>(1) / windows.counted(p, q, r, padding);
    for (int k = 0; k < at.width; k++) total.at[k] += slope.at[k] * share;
  });
  store(dx + row * channels, at, total);
}
