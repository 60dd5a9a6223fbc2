// Positions added to sequences. Formulas: ops/position.py.
#include "common.cuh"

// y = x + weight, weight (P,) for each of the samples of x (N, P) = (n,)
template <typename T>
__global__ void add_rows(const T* x, const T* weight, T* y, long long width, long long n) {
  over_grid<T>(n, width % (16 / sizeof(T)) == 0 && aligned(x, weight, y), [&](auto at) {
    auto pack = load(x, at);
    const auto more = load(weight, Place<at.width>{at.start % width});
    for (int k = 0; k < at.width; k++) pack.at[k] += more.at[k];
    store(y, at, pack);
  });
}

// The angle of pair i at position t: t base^(-2i/width), in float64, for t may be large; rate: -2 log₂(base) / width.
__device__ inline double angle(long long t, long long i, double rate) { return t * exp2(rate * i); }

// table (T, E) = (n,): sin of an angle in the even columns, cos of the same in the odd ones
template <typename T>
__global__ void waves(T* table, double rate, long long offset, long long width, long long n) {
  over_grid<T>(n, false, [&](auto at) {
    const long long t = at.start / width, column = at.start - t * width;
    const double turn = angle(offset + t, column / 2, rate);
    table[at.start] = Acc<T>(column % 2 ? cos(turn) : sin(turn));
  });
}

// cosines and sines (T, pairs) = (n,) of all angles
template <typename T>
__global__ void turns(Acc<T>* cosines, Acc<T>* sines, double rate, long long offset, long long pairs, long long n) {
  over_grid<T>(n, false, [&](auto at) {
    const long long t = at.start / pairs, i = at.start - t * pairs;
    cosines[at.start] = cos(angle(offset + t, i, rate));
    sines[at.start] = sin(angle(offset + t, i, rate));
  });
}

// y (L, T, D): pairs of x turned by their angles, or back by direction -1. A pair is (i, i + D/2) or, as neighbours,
// (2i, 2i + 1); n = L·T·D/2, table = T·D/2.
template <typename T>
__global__ void rotate(const T* x, const Acc<T>* cosines, const Acc<T>* sines, T* y, Acc<T> direction, int neighbours,
                       long long half, long long table, long long n) {
  const bool wide = !neighbours && half % (16 / sizeof(T)) == 0 && aligned(x, cosines, sines, y);
  over_grid<T>(n, wide, [&](auto at) {
    const Place<at.width> first{neighbours ? 2 * at.start : at.start + at.start / half * half};
    const Place<at.width> second{first.start + (neighbours ? 1 : half)}, turn{at.start % table};
    auto a = load(x, first), c = load(x, second);
    const auto cosine = load(cosines, turn), sine = load(sines, turn);
    for (int k = 0; k < at.width; k++) {
      const Acc<T> one = a.at[k], two = c.at[k], up = direction * sine.at[k];
      a.at[k] = one * cosine.at[k] - two * up;
      c.at[k] = two * cosine.at[k] + one * up;
    }
    store(y, first, a);
    store(y, second, c);
  });
}
