// Normal noise, and the samples of a variational autoencoder. Formulas: ops/noise.py.
#include "common.cuh"
#include "philox.cuh"

// Standard normal numbers of x (N, size) at a place. A place of more than one lies in one sample, at a multiple of its
// width or of 4. The reference's are equal to rounding.
template <int WIDTH>
__device__ Pack<float, WIDTH> normals(Place<WIDTH> place, const long long* samples, const Draws& draws,
                                      long long size) {
  constexpr int FOUR = WIDTH < 4 ? WIDTH : 4;
  Pack<float, WIDTH> pack;
  for (int k = 0; k < WIDTH; k += FOUR) {
    const long long n = (place.start + k) / size, j = place.start + k - n * size;
    const Words words = philox(j / 4, samples[n], draws);
    for (int m = 0; m < FOUR; m += 2) {
      const int first = FOUR == 4 ? m : j % 4 & 2;
      const auto pair = normal_pair(words.pick(first), words.pick(first + 1));
      pack.at[k + m] = FOUR == 1 && j % 2 ? pair.at[1] : pair.at[0];
      if (FOUR > 1) pack.at[k + m + 1] = pair.at[1];
    }
  }
  return pack;
}

// y = x + std ε; x (N, size) = (n,)
template <typename T>
__global__ void add_noise(const T* x, T* y, const long long* samples, const unsigned long long* step, Acc<T> std,
                          unsigned long long seed, unsigned stream, long long size, long long n) {
  const Draws draws{static_cast<unsigned>(*step), stream, seed};
  over_grid<T>(n, size % 4 == 0 && aligned(x, y), [&](auto at) {
    auto pack = load(x, at);
    const auto noise = normals(at, samples, draws, size);
    for (int k = 0; k < at.width; k++) pack.at[k] += std * noise.at[k];
    store(y, at, pack);
  });
}

// z = mean + e^(logvar / 2) ε of x (..., 2, D) = [mean, logvar]; deviation, what was added to the mean, is kept.
// z has `size` numbers in a sample and n in all.
template <typename T>
__global__ void draw(const T* x, T* z, T* deviation, const long long* samples, const unsigned long long* step,
                     unsigned long long seed, unsigned stream, long long width, long long size, long long n) {
  const Draws draws{static_cast<unsigned>(*step), stream, seed};
  over_grid<T>(n, width % 4 == 0 && width % (16 / sizeof(T)) == 0 && aligned(x, z, deviation), [&](auto at) {
    const Place<at.width> first{at.start + at.start / width * width};
    auto mean = load(x, first), added = load(x, Place<at.width>{first.start + width});
    const auto noise = normals(at, samples, draws, size);
    for (int k = 0; k < at.width; k++) {
      added.at[k] = exp(Acc<T>(0.5) * added.at[k]) * noise.at[k];
      mean.at[k] += added.at[k];
    }
    store(z, at, mean);
    store(deviation, at, added);
  });
}

// dx (..., 2, D) = [dz, deviation dz / 2]
template <typename T>
__global__ void draw_backward(const T* deviation, const T* dz, T* dx, long long width, long long n) {
  over_grid<T>(n, width % (16 / sizeof(T)) == 0 && aligned(deviation, dz, dx), [&](auto at) {
    const Place<at.width> first{at.start + at.start / width * width};
    auto added = load(deviation, at);
    const auto slope = load(dz, at);
    for (int k = 0; k < at.width; k++) added.at[k] *= slope.at[k] * Acc<T>(0.5);
    store(dx, first, slope);
    store(dx, Place<at.width>{first.start + width}, added);
  });
}
