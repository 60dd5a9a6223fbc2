// Between images (N, D, H, W, C) and columns (N, *P, G, pitch), which hold (cells, C/G) numbers each, and then a gap: a
// matrix of windows for each group.
#include "common.cuh"
#include "windows.cuh"

// columns[p, g, k] = the channels of group g in cell k of window p, zeros in the padding
// Blocks for each line of windows. A number of x is read once for each window that holds it, from the caches mostly.
template <typename T>
__global__ void im2col(const T* x, T* columns, Windows lie, int groups, int group_in, int pitch) {
  const Line line(lie.out);
  const int channels = groups * group_in;
  const bool wide = aligned(x, columns) && group_in % (16 / sizeof(T)) == 0;
  x += static_cast<long long>(line.n) * lie.size[0] * lie.size[1] * lie.size[2] * channels;
  columns += static_cast<long long>(blockIdx.x) * lie.out[2] * groups * pitch;
  for (int kd = 0; kd < lie.kernel[0]; kd++) {
    for (int kh = 0; kh < lie.kernel[1]; kh++) {
      const int d = lie.cell(0, line.d, kd), h = lie.cell(1, line.h, kh);
      const T* from = x + (static_cast<long long>(d) * lie.size[1] + h) * lie.size[2] * channels;
      const int cell = (kd * lie.kernel[1] + kh) * lie.kernel[2];
      over_line<T>(lie.out[2] * groups * lie.kernel[2], group_in, wide, [&](auto at, int i) {
        const int kw = i % lie.kernel[2], pair = i / lie.kernel[2];  // of a window and a group
        const int w = lie.cell(2, pair / groups, kw);
        Pack<T, at.width> pack{};
        if (d >= 0 && h >= 0 && w >= 0)
          pack = *reinterpret_cast<const Pack<T, at.width>*>(from + w * channels + pair % groups * group_in + at.start);
        T* to = columns + static_cast<long long>(pair) * pitch + (cell + kw) * group_in + at.start;
        *reinterpret_cast<Pack<T, at.width>*>(to) = pack;
      });
    }
  }
}

// x = bias + Σ of the numbers of `columns` that im2col would take from here; bias (C,) or missing
// Blocks for each line of the image; each number of `columns` is read once, and added in the order of the cells.
template <typename T>
__global__ void col2im(const T* columns, const T* bias, T* x, Windows lie, int groups, int group_in, int pitch) {
  const Line line(lie.size);
  const int channels = groups * group_in;
  const bool wide = aligned(columns, bias, x) && group_in % (16 / sizeof(T)) == 0;
  x += static_cast<long long>(blockIdx.x) * lie.size[2] * channels;
  over_line<T>(lie.size[2], channels, wide, [&](auto at, int w) {
    const int group = at.start / group_in, channel = at.start % group_in;
    Pack<Acc<T>, at.width> total{};
    if (bias) total = load(bias, at);
    for (int kd = 0; kd < lie.kernel[0]; kd++) {
      const int d = lie.window(0, line.d, kd);
      if (d < 0) continue;
      for (int kh = 0; kh < lie.kernel[1]; kh++) {
        const int h = lie.window(1, line.h, kh);
        if (h < 0) continue;
        const long long windows = ((static_cast<long long>(line.n) * lie.out[0] + d) * lie.out[1] + h) * lie.out[2];
        for (int kw = 0; kw < lie.kernel[2]; kw++) {
          const int p = lie.window(2, w, kw), cell = (kd * lie.kernel[1] + kh) * lie.kernel[2] + kw;
          if (p < 0) continue;
          const long long start = ((windows + p) * groups + group) * pitch + cell * group_in + channel;
          const auto part = load(columns, Place<at.width>{start});
          for (int k = 0; k < at.width; k++) total.at[k] += part.at[k];
        }
      }
    }
    store(x + w * channels, at, total);
  });
}
