// Pooling over all positions: x (N, P, C) to y (N, C); mask (N, P) says which positions are real, missing: all. A block
// has some of a sample's channels (columns.cuh) at all positions: one launch, as long as there are many samples or channels.
#include "common.cuh"
#include "columns.cuh"

// y, the mean of the real positions, 0 where none is; shares (N,) = 1 / how many they are
template <typename T>
__global__ void average_forward(const T* x, const bool* mask, T* y, Acc<T>* shares, long long positions,
                                long long channels) {
  const auto at = own_channels<T>(channels, x, y);
  constexpr int WIDTH = at.width;
  Acc<T> own[WIDTH + 1] = {};
  if (at.count > 0)
    down(positions, 1, [&](long long row) {
      if (mask && !mask[row]) return;
      const auto from = load(x + row * channels, at);
      for (int k = 0; k < WIDTH; k++) own[k] += from.at[k];
      own[WIDTH] += 1;
    });
  join_down(own, [](auto& one, auto& other) {
    for (int k = 0; k < WIDTH + 1; k++) one[k] += other[k];
  });
  if (threadIdx.y > 0 || at.count == 0) return;
  const Acc<T> share = 1 / (own[WIDTH] > 1 ? own[WIDTH] : Acc<T>(1));
  Pack<Acc<T>, WIDTH> pack;
  for (int k = 0; k < WIDTH; k++) pack.at[k] = own[k] * share;
  store(y + blockIdx.x * channels, at, pack);
  if (threadIdx.x == 0 && blockIdx.y == 0) shares[blockIdx.x] = share;
}

// dx = dy share at real positions, else 0
template <typename T>
__global__ void average_backward(const T* dy, const bool* mask, const Acc<T>* shares, T* dx, int strips,
                                 long long positions, long long channels) {
  const auto at = own_channels<T>(channels, dy, dx);
  if (at.count == 0) return;
  constexpr int WIDTH = at.width;
  const long long sample = blockIdx.x / strips;
  auto slope = load(dy + sample * channels, at);
  for (int k = 0; k < WIDTH; k++) slope.at[k] *= shares[sample];
  down(positions, strips, [&](long long row) {
    store(dx + row * channels, at, !mask || mask[row] ? slope : Pack<Acc<T>, WIDTH>{});
  });
}

// y, the largest value of the real positions, 0 where none is; winner (N, C), the first position that has it, or -1
template <typename T>
__global__ void max_forward(const T* x, const bool* mask, T* y, int* winner, long long positions,
                            long long channels) {
  const auto at = own_channels<T>(channels, x, y, winner);
  constexpr int WIDTH = at.width;
  struct Best {
    Acc<T> value;
    int place;
  } own[WIDTH];
  for (int k = 0; k < WIDTH; k++) own[k] = {0, -1};
  // The larger of two, of NaNs and of equals the first.
  const auto join = [](Best (&one)[WIDTH], const Best (&other)[WIDTH]) {
    for (int k = 0; k < WIDTH; k++) {
      const Acc<T> a = one[k].value, b = other[k].value;
      const bool first = other[k].place < one[k].place, nan = a != a, other_nan = b != b;
      const bool better = nan || other_nan ? other_nan && (!nan || first) : b > a || (b == a && first);
      if (other[k].place >= 0 && (one[k].place < 0 || better)) one[k] = other[k];
    }
  };
  if (at.count > 0)
    down(positions, 1, [&](long long row) {
      if (mask && !mask[row]) return;
      const auto from = load(x + row * channels, at);
      Best other[WIDTH];
      for (int k = 0; k < WIDTH; k++) other[k] = {from.at[k], static_cast<int>(row - blockIdx.x * positions)};
      join(own, other);
    });
  join_down(own, join);
  if (threadIdx.y > 0 || at.count == 0) return;
  Pack<Acc<T>, WIDTH> best;
  Pack<int, WIDTH> won;
  for (int k = 0; k < WIDTH; k++) {
    best.at[k] = own[k].value;
    won.at[k] = own[k].place;
  }
  store(y + blockIdx.x * channels, at, best);
  store(winner + blockIdx.x * channels, at, won);
}

// dx = dy at the winner, else 0
template <typename T>
__global__ void max_backward(const T* dy, const int* winner, T* dx, int strips, long long positions,
                             long long channels) {
  const auto at = own_channels<T>(channels, dy, winner, dx);
  if (at.count == 0) return;
  constexpr int WIDTH = at.width;
  const long long sample = blockIdx.x / strips;
  const auto slope = load(dy + sample * channels, at);
  const auto won = load(winner + sample * channels, at);
  down(positions, strips, [&](long long row) {
    Pack<Acc<T>, WIDTH> pack;
    for (int k = 0; k < WIDTH; k++) pack.at[k] = won.at[k] == row - sample * positions ? slope.at[k] : Acc<T>(0);
    store(dx + row * channels, at, pack);
  });
}
