// Interpolation of images (N, *S, C) to (N, *P, C) along three axes, those that are missing of size 1. Formulas:
// ops/upsample.py. A thread has 16 bytes of channels of a cell (columns.cuh), forward of y, backward of x: there it
// collects from the cells of y that it went into.
#include "common.cuh"
#include "columns.cuh"

// A Curve says where cell i of y lies along an axis of x, `taps` cells of which it is made of, and what share of it
// cell j has.

// At ⌊i scale⌋, in float32 as PyTorch, to fall alike.
struct Nearest {
  static constexpr int taps = 1;
  template <typename A>
  __device__ static int at(int i, int size, A scale, A) {
    const int cell = static_cast<float>(i) * static_cast<float>(scale);
    return cell < size ? cell : size - 1;
  }
  template <typename A>
  __device__ static A share(int at, int j) { return at == j; }
};

// At (i + shift) scale - shift, between the cells on both sides.
struct Linear {
  static constexpr int taps = 2;
  template <typename A>
  __device__ static A at(int i, int size, A scale, A shift) {
    const A exact = (i + shift) * scale - shift;
    return exact < 0 ? 0 : exact < size - 1 ? exact : A(size - 1);
  }
  template <typename A>
  __device__ static A share(A at, int j) { return fabs(at - j) < 1 ? 1 - fabs(at - j) : 0; }
};

// Cells of x by cells of y: `scale` of them each, and where the first lies.
template <typename Curve, typename A>
struct Axis {
  int size, out;
  A scale, shift;

  __device__ auto at(int i) const { return Curve::at(i, size, scale, shift); }

  // Of the cells of y those that may have a share of cell j: `from` to before `to`, rather one too many, whose share is
  // 0. Beyond its ends x goes on as at them.
  __device__ int from(int j) const {
    const A first = (j + 1 - Curve::taps + shift) / scale - shift;
    return j == 0 || scale <= 0 || first < 0 ? 0 : first < out ? static_cast<int>(first) : out;
  }
  __device__ int to(int j) const {
    const A last = (j + 1 + shift) / scale - shift + 2;
    return j == size - 1 || scale <= 0 || last > out ? out : static_cast<int>(last);
  }
};

// A kernel's parameters have no structures: what an axis is given by, and the axis from it.
#define AXIS(n) int size##n, int out##n, double scale##n, double shift##n
#define AXES AXIS(0), AXIS(1), AXIS(2)
#define GIVEN(n, name) const Axis<Curve, Acc<T>> name{size##n, out##n, Acc<T>(scale##n), Acc<T>(shift##n)}

template <typename T, typename Curve>
__global__ void forward(const T* x, T* y, AXES, long long channels, unsigned rows) {
  const auto at = own_channels<T>(channels, x, y);
  const unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  if (at.count == 0 || row >= rows) return;
  GIVEN(0, a);
  GIVEN(1, b);
  GIVEN(2, c);
  const long long image = row / out2 / out1 / out0;
  Pack<Acc<T>, at.width> total = {};
  const auto each = [](const auto& axis, int i, auto step) {
    const auto place = axis.at(i);
    const int first = place;
    for (int j = first; j < axis.size && j < first + Curve::taps; j++)
      if (const Acc<T> share = Curve::template share<Acc<T>>(place, j)) step(j, share);
  };
  each(a, row / out2 / out1 % out0, [&](int i, Acc<T> p) {
    each(b, row / out2 % out1, [&](int j, Acc<T> q) {
      each(c, row % out2, [&](int k, Acc<T> r) {
        const auto from = load(x + (((image * size0 + i) * size1 + j) * size2 + k) * channels, at);
        for (int m = 0; m < at.width; m++) total.at[m] += p * q * r * from.at[m];
      });
    });
  });
  store(y + row * channels, at, total);
}

template <typename T, typename Curve>
__global__ void backward(const T* dy, T* dx, AXES, long long channels, unsigned rows) {
  const auto at = own_channels<T>(channels, dy, dx);
  const unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  if (at.count == 0 || row >= rows) return;
  GIVEN(0, a);
  GIVEN(1, b);
  GIVEN(2, c);
  const long long image = row / size2 / size1 / size0;
  Pack<Acc<T>, at.width> total = {};
  const auto each = [](const auto& axis, int j, auto step) {
    for (int i = axis.from(j); i < axis.to(j); i++)
      if (const Acc<T> share = Curve::template share<Acc<T>>(axis.at(i), j)) step(i, share);
  };
  each(a, row / size2 / size1 % size0, [&](int i, Acc<T> p) {
    each(b, row / size2 % size1, [&](int j, Acc<T> q) {
      each(c, row % size2, [&](int k, Acc<T> r) {
        const auto slope = load(dy + (((image * out0 + i) * out1 + j) * out2 + k) * channels, at);
        for (int m = 0; m < at.width; m++) total.at[m] += p * q * r * slope.at[m];
      });
    });
  });
  store(dx + row * channels, at, total);
}
