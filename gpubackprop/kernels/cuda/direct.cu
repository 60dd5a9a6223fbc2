// Convolution of x (N, D, H, W, C) by weight (cells, C/G, O) without columns, for groups of few channels: a group has
// group_in = C/G channels and `each` = O/G outputs. Depthwise: group_in = 1.
#include "common.cuh"
#include "windows.cuh"

constexpr int TILE = 4;  // places of a line that a thread works on, with the weight in registers

// The groups of the outputs at a place. Where the first is, is found once: a division is some twenty instructions.
template <int WIDTH>
struct Groups {
  Place<WIDTH> outputs;
  int group_in, each;
  int first, left;  // the first one's channel; how many of its outputs are at the place or behind it

  __device__ Groups(Place<WIDTH> at, int group_in, int each) : outputs(at), group_in(group_in), each(each) {
    const int group = each == 1 ? at.start : at.start / each;
    first = group * group_in;
    left = each - (at.start - group * each);
  }

  // The numbers of the channel `from` of the groups.
  template <typename T>
  __device__ Pack<Acc<T>, WIDTH> numbers(const T* from) const {
    if (each == 1 && group_in == 1) return load(from, outputs);
    if (each % WIDTH) return some(from, WIDTH);
    Pack<Acc<T>, WIDTH> pack;
    const Acc<T> number = from[first];  // all are of one group
    for (int k = 0; k < WIDTH; k++) pack.at[k] = number;
    return pack;
  }

  // As above, of the first `count` outputs.
  template <typename T>
  __device__ Pack<Acc<T>, WIDTH> some(const T* from, int count) const {
    Pack<Acc<T>, WIDTH> pack{};
    from += first;
    for (int k = 0, rest = left; k < WIDTH && k < count; k++, rest--) {
      if (rest == 0) {
        from += group_in;
        rest = each;
      }
      pack.at[k] = *from;
    }
    return pack;
  }
};

// For channels at a place, each a group: the numbers of their m-th outputs.
template <int WIDTH, typename T>
__device__ Pack<Acc<T>, WIDTH> of_outputs(const T* from, Place<WIDTH> channels, int each, int m) {
  if (each == 1) return load(from, channels);
  Pack<Acc<T>, WIDTH> pack;
  for (int k = 0; k < WIDTH; k++) pack.at[k] = from[(channels.start + k) * each + m];
  return pack;
}

// y = bias + Σ x weight over the cells of each window; bias (O,) or missing
// Blocks for each line of windows. Zeros are multiplied in the padding, so that a NaN of the weight shows.
template <typename T>
__global__ void forward(const T* x, const T* weight, const T* bias, T* y, Windows lie, int groups, int group_in,
                        int each) {
  const Line line(lie.out);
  const int channels = groups * group_in, outputs = groups * each;
  const bool wide = aligned(x, weight, bias, y) && outputs % (16 / sizeof(T)) == 0;
  x += static_cast<long long>(line.n) * lie.size[0] * lie.size[1] * lie.size[2] * channels;
  y += static_cast<long long>(blockIdx.x) * lie.out[2] * outputs;
  over_line<T>((lie.out[2] + TILE - 1) / TILE, outputs, wide, [&](auto at, int tile) {
    const Groups<at.width> own(at, group_in, each);
    Pack<Acc<T>, at.width> total[TILE] = {};
    if (bias)
      for (int t = 0; t < TILE; t++) total[t] = load(bias, at);
    for (int kd = 0; kd < lie.kernel[0]; kd++) {
      for (int kh = 0; kh < lie.kernel[1]; kh++) {
        const int d = lie.cell(0, line.d, kd), h = lie.cell(1, line.h, kh);
        const T* from = x + (static_cast<long long>(d) * lie.size[1] + h) * lie.size[2] * channels;
        for (int kw = 0; kw < lie.kernel[2]; kw++) {
          const int cell = (kd * lie.kernel[1] + kh) * lie.kernel[2] + kw;
          for (int c = 0; c < group_in; c++) {
            const long long start = (static_cast<long long>(cell) * group_in + c) * outputs + at.start;
            const auto factor = load(weight, Place<at.width>{start});
#pragma unroll
            for (int t = 0; t < TILE; t++) {
              const int w = lie.cell(2, tile * TILE + t, kw);
              Pack<Acc<T>, at.width> value{};
              if (d >= 0 && h >= 0 && w >= 0) value = own.numbers(from + w * channels + c);
              for (int k = 0; k < at.width; k++) total[t].at[k] += value.at[k] * factor.at[k];
            }
          }
        }
      }
    }
#pragma unroll
    for (int t = 0; t < TILE; t++)
      if (tile * TILE + t < lie.out[2]) store(y + (tile * TILE + t) * outputs, at, total[t]);
  });
}

// dx = bias + Σ dy weight over the windows that hold a cell, where a channel is a group; bias (C,) or missing
// Blocks for each line of the image.
template <typename T>
__global__ void backward(const T* dy, const T* weight, const T* bias, T* dx, Windows lie, int channels, int each) {
  const Line line(lie.size);
  const int outputs = channels * each;
  const bool wide = aligned(dy, weight, bias, dx) && channels % (16 / sizeof(T)) == 0;
  dy += static_cast<long long>(line.n) * lie.out[0] * lie.out[1] * lie.out[2] * outputs;
  dx += static_cast<long long>(blockIdx.x) * lie.size[2] * channels;
  over_line<T>((lie.size[2] + TILE - 1) / TILE, channels, wide, [&](auto at, int tile) {
    Pack<Acc<T>, at.width> total[TILE] = {};
    if (bias)
      for (int t = 0; t < TILE; t++) total[t] = load(bias, at);
    for (int kd = 0; kd < lie.kernel[0]; kd++) {
      const int d = lie.window(0, line.d, kd);
      if (d < 0) continue;
      for (int kh = 0; kh < lie.kernel[1]; kh++) {
        const int h = lie.window(1, line.h, kh);
        if (h < 0) continue;
        const T* from = dy + (static_cast<long long>(d) * lie.out[1] + h) * lie.out[2] * outputs;
        for (int kw = 0; kw < lie.kernel[2]; kw++) {
          const T* factors = weight + ((kd * lie.kernel[1] + kh) * lie.kernel[2] + kw) * outputs;
          for (int m = 0; m < each; m++) {
            const auto factor = of_outputs(factors, at, each, m);
#pragma unroll
            for (int t = 0; t < TILE; t++) {
              const int p = lie.window(2, tile * TILE + t, kw);
              if (p < 0) continue;
              const auto slope = of_outputs(from + p * outputs, at, each, m);
              for (int k = 0; k < at.width; k++) total[t].at[k] += slope.at[k] * factor.at[k];
            }
          }
        }
      }
    }
#pragma unroll
    for (int t = 0; t < TILE; t++)
      if (tile * TILE + t < lie.size[2]) store(dx + (tile * TILE + t) * channels, at, total[t]);
  });
}

constexpr int SUM_THREADS = 256, TAPS = 10;  // the block of weight_strips, and its taps: those of 3x3 and the bias

// A tap is a channel of a group in a cell: Σ x dy by tap, and, as one tap more where `with_bias`, Σ dy, over a strip of
// the windows: partial (strips, taps, O)
// Blocks for `columns` packs of outputs (grid x), each strip (grid y) and every TAPS taps (grid z); the threads are
// columns of lines of windows.
template <typename T>
__launch_bounds__(SUM_THREADS, 2)
__global__ void weight_strips(const T* x, const T* dy, Acc<T>* partial, Windows lie, int groups, int group_in, int each,
                              int with_bias, int columns, int windows) {
  constexpr int WIDTH = sizeof(T) == 8 ? 2 : 4;  // all taps have sums of it in registers
  using Numbers = Pack<Acc<T>, WIDTH>;
  __shared__ int reach[TAPS][4];  // of a tap, along D, H, W and C
  __shared__ Acc<T> lines[SUM_THREADS][WIDTH];
  const int channels = groups * group_in, outputs = groups * each;
  const int real = lie.cells() * group_in, all = real + with_bias, first = blockIdx.z * TAPS;
  const int count = min(TAPS, all - first), tap = first + threadIdx.x, cell = tap / group_in;
  if (threadIdx.x < TAPS && tap < real) {
    reach[threadIdx.x][0] = cell / (lie.kernel[1] * lie.kernel[2]) * lie.dilation[0] - lie.before[0];
    reach[threadIdx.x][1] = cell / lie.kernel[2] % lie.kernel[1] * lie.dilation[1] - lie.before[1];
    reach[threadIdx.x][2] = cell % lie.kernel[2] * lie.dilation[2] - lie.before[2];
    reach[threadIdx.x][3] = tap % group_in;
  }
  __syncthreads();
  const int line = threadIdx.x / columns, height = SUM_THREADS / columns;
  const int start = (blockIdx.x * columns + threadIdx.x % columns) * WIDTH, kept = min(WIDTH, outputs - start);
  const bool wide = aligned(x, dy) && outputs % WIDTH == 0;
  const Groups<WIDTH> own(Place<WIDTH>{start}, group_in, each);
  Numbers total[TAPS] = {};
  if (line < height && kept > 0) {
    for (int i = blockIdx.y * height + line; i < windows; i += gridDim.y * height) {
      Numbers slope{};  // the last pack of a row may not be whole
      if (wide) slope = load(dy, Place<WIDTH>{static_cast<long long>(i) * outputs + start});
      else
        for (int k = 0; k < kept; k++) slope.at[k] = dy[static_cast<long long>(i) * outputs + start + k];
      const int row = i / lie.out[2], slice = row / lie.out[1], n = slice / lie.out[0];
      const int d = slice % lie.out[0] * lie.stride[0], h = row % lie.out[1] * lie.stride[1];
      const int w = i % lie.out[2] * lie.stride[2];
#pragma unroll
      for (int t = 0; t < TAPS; t++) {
        if (t >= count) continue;
        Numbers value{};
        if (first + t == real) {
          for (int k = 0; k < WIDTH; k++) value.at[k] = 1;
        } else {
          const int cd = d + reach[t][0], ch = h + reach[t][1], cw = w + reach[t][2];
          if (cd >= 0 && cd < lie.size[0] && ch >= 0 && ch < lie.size[1] && cw >= 0 && cw < lie.size[2]) {
            const long long plane = static_cast<long long>(n) * lie.size[0] + cd;
            const T* from = x + ((plane * lie.size[1] + ch) * lie.size[2] + cw) * channels + reach[t][3];
            value = wide ? own.numbers(from) : own.some(from, kept);
          }
        }
        for (int k = 0; k < WIDTH; k++) total[t].at[k] += value.at[k] * slope.at[k];
      }
    }
  }
#pragma unroll
  for (int t = 0; t < TAPS; t++) {
    if (t >= count) continue;
    for (int k = 0; k < WIDTH; k++) lines[threadIdx.x][k] = total[t].at[k];
    for (int left = height, half; left > 1; left = half) {
      half = (left + 1) / 2;
      __syncthreads();
      if (line + half < left)
        for (int k = 0; k < WIDTH; k++) lines[threadIdx.x][k] += lines[threadIdx.x + half * columns][k];
    }
    if (line == 0)
      for (int k = 0; k < kept; k++)
        partial[(static_cast<long long>(blockIdx.y) * all + first + t) * outputs + start + k] = lines[threadIdx.x][k];
    __syncthreads();  // the next tap writes to the same place
  }
}

constexpr int ADD_COLUMNS = 32, ADD_LINES = 8;  // the block of add_strips

// dweight (weights,) and, of what is behind them, dbias: partial (strips, n) summed over the strips, always in the same
// order
template <typename T>
__global__ void add_strips(const Acc<T>* partial, T* dweight, T* dbias, int strips, int weights, int n) {
  __shared__ Acc<T> totals[ADD_LINES][ADD_COLUMNS];
  const int i = blockIdx.x * ADD_COLUMNS + threadIdx.x;
  Acc<T> total = 0;
  if (i < n)
    for (long long strip = threadIdx.y; strip < strips; strip += ADD_LINES) total += partial[strip * n + i];
  totals[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y > 0 || i >= n) return;
  for (int line = 1; line < ADD_LINES; line++) total += totals[line][threadIdx.x];
  if (i < weights) dweight[i] = total;
  else dbias[i - weights] = total;
}
