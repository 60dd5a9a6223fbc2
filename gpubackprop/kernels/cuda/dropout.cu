// Dropout of x (N, S, D): all S of a sample share D decisions.
#include "common.cuh"
#include "philox.cuh"

// Bit k says whether number k at a place is kept. width: D, size: S·D. A place of more than one number lies in one row,
// at a multiple of its width or of 4; or D is 1, and it lies in one sample.
template <int WIDTH>
__device__ unsigned kept(Place<WIDTH> place, const long long* samples, const Draws& draws, unsigned limit, int alike,
                         long long width, long long size) {
  constexpr int FOUR = WIDTH < 4 ? WIDTH : 4;
  unsigned bits = 0;
  for (int k = 0; k < WIDTH; k += FOUR) {
    const long long i = place.start + k, n = i / size;
    const long long j = width == size ? i - n * size : i % width;
    const Words words = philox(j / 4, alike ? 0 : samples[n], draws);
    if (width == 1) return words.at[0] >= limit ? ~0u : 0;
    for (int m = 0; m < FOUR; m++)
      bits |= static_cast<unsigned>((FOUR == 4 ? words.at[m] : words.pick(j % 4 + m)) >= limit) << (k + m);
  }
  return bits;
}

// y = x mask scale, (N, S, D); of dy it gives dx. The mask is drawn again for dx: that costs no bytes and no memory,
// and some ten integer instructions for a number, which a GPU does while it waits for the numbers.
template <typename T>
__global__ void apply(const T* x, T* y, const long long* samples, const unsigned long long* step, Acc<T> scale,
                      unsigned limit, int alike, unsigned long long seed, unsigned stream, long long width,
                      long long size, long long n) {
  const Draws draws{static_cast<unsigned>(*step), stream, seed};
  const bool whole = width % 4 == 0 || (width == 1 && size % (16 / sizeof(T)) == 0);
  over_grid<T>(n, whole && aligned(x, y), [&](auto at) {
    const unsigned bits = kept(at, samples, draws, limit, alike, width, size);
    auto pack = load(x, at);
    // A product, as the reference has it: infinity dropped is not 0 but no number.
    for (int k = 0; k < at.width; k++) pack.at[k] *= bits >> k & 1 ? scale : Acc<T>(0);
    store(y, at, pack);
  });
}
