// Norms whose statistics are taken down columns. x is (N, P, C): N samples of P positions, C channels in G groups of K.
// Group norm; instance norm, where G = C; batch norm, where moreover all the batch is one sample.
//
// mask: what of x counts, one boolean for each `again` rows in turn; missing: all. It is multiplied by, as the
// reference does, so that what is no number shows wherever it is.
#include "common.cuh"
#include "columns.cuh"

__device__ bool kept_row(const bool* mask, long long row, long long again) { return !mask || mask[row / again]; }

// What is done to a thread's channels: y = (x - centre) scale + shift
template <typename T>
struct Affine {
  using A = Acc<T>;
  A centre[Channels<T>::width], scale[Channels<T>::width], shift[Channels<T>::width];

  // mean and rstd (N, G), weight and bias (C,) or missing
  __device__ Affine(Channels<T> at, const T* weight, const T* bias, const A* mean, const A* rstd, int strips,
                    long long channels, int groups) {
    const long long sample = blockIdx.x / strips;
    const int width = channels / groups;
    for (int k = 0; k < at.width; k++) {
      const int c = k < at.count ? at.start + k : 0;
      const long long group = sample * groups + divided(c, width);
      centre[k] = mean[group];
      scale[k] = rstd[group] * (weight ? Acc<T>(weight[c]) : Acc<T>(1));
      shift[k] = bias ? Acc<T>(bias[c]) : Acc<T>(0);
    }
  }
  __device__ A value(int k, A x) const { return (x - centre[k]) * scale[k] + shift[k]; }
};

// Of each strip's positions the mean by channel, and the sum of squared differences from it: partial (N, strips, 2, C);
// how many they are: counts (N, strips). Welford 1962, and Chan et al. 1979 for the threads' results: as precise as two
// passes, and x is read once. The division is one for a pack.
template <typename T>
__global__ void moments(const T* x, const bool* mask, Acc<T>* partial, Acc<T>* counts, int strips, long long positions,
                        long long channels, long long again) {
  using A = Acc<T>;
  const auto at = own_channels<T>(channels, x);
  constexpr int WIDTH = at.width;
  A own[2 * WIDTH + 1] = {};  // means, squares, count
  if (at.count > 0)
    down(positions, strips, [&](long long row) {
      const A kept = kept_row(mask, row, again);
      const auto from = load(x + row * channels, at);
      own[2 * WIDTH] += kept;
      const A part = kept / (own[2 * WIDTH] > 1 ? own[2 * WIDTH] : A(1));
      for (int k = 0; k < WIDTH; k++) {
        const A off = from.at[k] - own[k];
        own[k] += off * part;
        own[WIDTH + k] += kept * off * (from.at[k] - own[k]);
      }
    });
  join_down(own, [](auto& one, auto& other) {
    const A count = one[2 * WIDTH] + other[2 * WIDTH], part = other[2 * WIDTH] / (count > 1 ? count : A(1));
    for (int k = 0; k < WIDTH; k++) {
      const A off = other[k] - one[k];
      one[k] += off * part;
      one[WIDTH + k] += other[WIDTH + k] + off * off * part * one[2 * WIDTH];
    }
    one[2 * WIDTH] = count;
  });
  if (threadIdx.y > 0) return;
  for (int k = 0; k < at.count; k++) {
    partial[blockIdx.x * 2 * channels + at.start + k] = own[k];
    partial[(blockIdx.x * 2 + 1) * channels + at.start + k] = own[WIDTH + k];
  }
  if (threadIdx.x == 0 && blockIdx.y == 0) counts[blockIdx.x] = own[2 * WIDTH];
}

// mean, var (biased), rstd = 1 / √(var + eps) and how many values they are of, (N, G) each, from the strips of
// `moments`. A block for each.
template <typename T>
__global__ void statistics(const Acc<T>* partial, const Acc<T>* counts, Acc<T>* mean, Acc<T>* var, Acc<T>* rstd,
                           Acc<T>* total, Acc<T> eps, int strips, long long channels, int groups) {
  const long long sample = blockIdx.x / groups;
  const int width = channels / groups;
  partial += sample * strips * 2 * channels + blockIdx.x % groups * width;
  counts += sample * strips;
  double count = 0, sum = 0, squares = 0;
  for (int i = threadIdx.x; i < strips * width; i += blockDim.x) {
    const int strip = divided(i, width);
    count += counts[strip];
    sum += static_cast<double>(counts[strip]) * partial[strip * 2 * channels + i - strip * width];
  }
  count = block_sum(count);
  const double some = count > 1 ? count : 1, centre = block_sum(sum) / some;
  for (int i = threadIdx.x; i < strips * width; i += blockDim.x) {
    const int strip = divided(i, width);
    const Acc<T>* own = partial + strip * 2 * channels + i - strip * width;
    squares += own[channels] + counts[strip] * (own[0] - centre) * (own[0] - centre);
  }
  squares = block_sum(squares) / some;
  if (threadIdx.x > 0) return;
  mean[blockIdx.x] = centre;
  var[blockIdx.x] = squares;
  rstd[blockIdx.x] = 1 / sqrt(squares + eps);
  total[blockIdx.x] = count;
}

// rstd = 1 / √(var + eps), both (n,)
template <typename T>
__global__ void inverse_root(const Acc<T>* var, Acc<T>* rstd, Acc<T> eps, long long n) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) rstd[i] = 1 / sqrt(var[i] + eps);
}

// y = (x - mean) rstd weight + bias, plus the shortcut where there is one, and through `relu`; 0 where x does not count
template <typename T>
__global__ void normalise(const T* x, const T* weight, const T* bias, const T* shortcut, const bool* mask,
                          const Acc<T>* mean, const Acc<T>* rstd, T* y, int relu, int strips, long long positions,
                          long long channels, int groups, long long again) {
  const auto at = own_channels<T>(channels, x, shortcut, y);
  if (at.count == 0) return;
  const Affine<T> affine(at, weight, bias, mean, rstd, strips, channels, groups);
  down(positions, strips, [&](long long row) {
    auto pack = load(x + row * channels, at);
    for (int k = 0; k < at.width; k++) pack.at[k] = affine.value(k, pack.at[k]);
    if (shortcut) {
      const auto other = load(shortcut + row * channels, at);
      for (int k = 0; k < at.width; k++) pack.at[k] += other.at[k];
    }
    const Acc<T> kept = kept_row(mask, row, again);
    for (int k = 0; k < at.width; k++) pack.at[k] = relu && pack.at[k] <= 0 ? Acc<T>(0) : pack.at[k] * kept;
    store(y + row * channels, at, pack);
  });
}

// What comes back through relu, in place of dy: with y by its sign, and dsum is written; else by that of y computed
// again from x, which is less to read.
template <typename T>
struct Rectified {
  const T* y;
  T* dsum;
  int relu;

  __device__ void pass(Pack<Acc<T>, Channels<T>::width>& dy, const Pack<Acc<T>, Channels<T>::width>& x, long long place,
                       Channels<T> at, const Affine<T>& affine) const {
    if (!relu) return;
    auto value = x;
    if (y) value = load(y + place, at);
    else for (int k = 0; k < at.width; k++) value.at[k] = affine.value(k, x.at[k]);
    for (int k = 0; k < at.width; k++) dy.at[k] = value.at[k] > 0 ? dy.at[k] : dy.at[k] * 0;
    if (dsum) store(dsum + place, at, dy);
  }
};

// By strip and channel the sums of dy and of dy x̂: partial (N, strips, 2, C)
template <typename T>
__global__ void products(const T* x, const T* dy, const T* y, const T* weight, const T* bias, const bool* mask,
                         const Acc<T>* mean, const Acc<T>* rstd, T* dsum, Acc<T>* partial, int relu, int strips,
                         long long positions, long long channels, int groups, long long again) {
  const auto at = own_channels<T>(channels, x, dy, y, dsum);
  constexpr int WIDTH = at.width;
  Acc<T> own[2 * WIDTH] = {};
  if (at.count > 0) {
    const Affine<T> affine(at, weight, bias, mean, rstd, strips, channels, groups);
    const Rectified<T> rectified{y, dsum, relu};
    down(positions, strips, [&](long long row) {
      const auto from = load(x + row * channels, at);
      auto slope = load(dy + row * channels, at);
      rectified.pass(slope, from, row * channels, at, affine);
      const Acc<T> kept = kept_row(mask, row, again);
      for (int k = 0; k < WIDTH; k++) {
        own[k] += slope.at[k] * kept;
        own[WIDTH + k] += slope.at[k] * kept * (from.at[k] - affine.centre[k]);
      }
    });
  }
  join_down(own, [](auto& one, auto& other) {
    for (int k = 0; k < 2 * WIDTH; k++) one[k] += other[k];
  });
  if (threadIdx.y > 0) return;
  const long long sample = blockIdx.x / strips;
  const int width = channels / groups;
  for (int k = 0; k < at.count; k++) {
    const long long c = at.start + k;
    partial[blockIdx.x * 2 * channels + c] = own[k];
    partial[(blockIdx.x * 2 + 1) * channels + c] = own[WIDTH + k] * rstd[sample * groups + divided(c, width)];
  }
}

// The strips added up by channel and group, each where it is not missing: dbias and dweight (C,) the sums of dy and of
// dy x̂; means (N, G, 2) the means of both, dy times weight, over `total` (N, G) values. A block for each.
template <typename T>
__global__ void add_strips(const Acc<T>* partial, const T* weight, const Acc<T>* total, Acc<T>* means, T* dweight,
                           T* dbias, int strips, long long channels, int groups) {
  const long long sample = blockIdx.x / groups;
  const int width = channels / groups, first = blockIdx.x % groups * width;
  partial += sample * strips * 2 * channels + first;
  double sum = 0, product = 0;
  for (int i = threadIdx.x; i < strips * width; i += blockDim.x) {
    const int strip = divided(i, width), c = i - strip * width;
    const Acc<T>* own = partial + strip * 2 * channels + c;
    const double factor = means && weight && width > 1 ? Acc<T>(weight[first + c]) : Acc<T>(1);
    sum += factor * own[0];
    product += factor * own[channels];
  }
  sum = block_sum(sum);
  product = block_sum(product);
  if (threadIdx.x > 0) return;
  if (dbias) dbias[blockIdx.x] = Acc<T>(sum);
  if (dweight) dweight[blockIdx.x] = Acc<T>(product);
  if (!means) return;
  const double factor = weight && width == 1 ? Acc<T>(weight[first]) : Acc<T>(1);
  const double count = total[blockIdx.x] > 1 ? total[blockIdx.x] : 1;
  means[blockIdx.x * 2] = factor * sum / count;
  means[blockIdx.x * 2 + 1] = factor * product / count;
}

// dx = rstd (dy weight - mean(dy weight) - x̂ mean(dy weight x̂)), the means from `add_strips`; x and they are missing
// where the statistics were constants
template <typename T>
__global__ void input_gradient(const T* x, const T* dy, const T* weight, const T* bias, const bool* mask,
                               const Acc<T>* mean, const Acc<T>* rstd, const Acc<T>* means, T* dx, int relu, int strips,
                               long long positions, long long channels, int groups, long long again) {
  const auto at = own_channels<T>(channels, x, dy, dx);
  constexpr int WIDTH = at.width;
  if (at.count == 0) return;
  const Affine<T> affine(at, weight, bias, mean, rstd, strips, channels, groups);
  Acc<T> constant[WIDTH], slope_x[WIDTH];
  const long long sample = blockIdx.x / strips;
  const int width = channels / groups;
  for (int k = 0; k < WIDTH; k++) {
    const long long group = sample * groups + divided(k < at.count ? at.start + k : 0, width);
    constant[k] = means ? -rstd[group] * means[group * 2] : Acc<T>(0);
    slope_x[k] = means ? -rstd[group] * rstd[group] * means[group * 2 + 1] : Acc<T>(0);
  }
  const Rectified<T> rectified{nullptr, nullptr, relu};
  down(positions, strips, [&](long long row) {
    auto slope = load(dy + row * channels, at);
    if (means) {
      const auto from = load(x + row * channels, at);
      rectified.pass(slope, from, row * channels, at, affine);
      const Acc<T> kept = kept_row(mask, row, again);
      for (int k = 0; k < WIDTH; k++)
        slope.at[k] = slope.at[k] * affine.scale[k] + ((from.at[k] - affine.centre[k]) * slope_x[k] + constant[k]);
      for (int k = 0; k < WIDTH; k++) slope.at[k] *= kept;
    } else {
      for (int k = 0; k < WIDTH; k++) slope.at[k] *= affine.scale[k];
    }
    store(dx + row * channels, at, slope);
  });
}
