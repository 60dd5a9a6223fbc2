// Rows of channels, (N, P, C): a thread has channels of its own, 16 bytes of them, and goes down rows. The block is
// (channels, rows), so that neighbours read what lies side by side, and what belongs to a channel stays in registers.
// Grid: (N times strips, blocks side by side), and strip s of a sample takes every strips-th turn of the block's rows.

constexpr int MOST_THREADS = 256;  // of such a block

// n / d, where d is mostly 1: a division is some twenty instructions, and of those a thread has few for each byte.
__device__ int divided(int n, int d) { return d == 1 ? n : n / d; }

// A thread's own channels: `width`, or fewer at the end of a row.
template <typename T>
struct Channels {
  static constexpr int width = 16 / sizeof(T);
  long long start;
  int count;
  bool wide;  // read as one: they are all there, and begin at a multiple of 16 bytes
};

template <typename T, typename... A>
__device__ Channels<T> own_channels(long long channels, const A*... array) {
  constexpr int WIDTH = Channels<T>::width;
  const long long start = (static_cast<long long>(blockIdx.y) * blockDim.x + threadIdx.x) * WIDTH;
  const long long left = channels - start;
  const int count = left < 0 ? 0 : left < WIDTH ? left : WIDTH;
  return {start, count, channels % WIDTH == 0 && aligned(array...)};
}

// A row's numbers in the own channels, those that there are not 0.
template <typename T, typename I>
__device__ Pack<Acc<I>, Channels<T>::width> load(const I* row, Channels<T> at) {
  constexpr int WIDTH = Channels<T>::width;
  if (at.wide) return load(row, Place<WIDTH>{at.start});
  Pack<Acc<I>, WIDTH> pack;
  for (int k = 0; k < WIDTH; k++) pack.at[k] = k < at.count ? Acc<I>(row[at.start + k]) : Acc<I>(0);
  return pack;
}

template <typename T, typename I>
__device__ void store(I* row, Channels<T> at, const Pack<Acc<I>, Channels<T>::width>& pack) {
  constexpr int WIDTH = Channels<T>::width;
  if (at.wide) return store(row, Place<WIDTH>{at.start}, pack);
  for (int k = 0; k < WIDTH; k++)
    if (k < at.count) row[at.start + k] = I(pack.at[k]);
}

// step(row) for those of the N times P rows that are this thread's.
template <typename Step>
__device__ void down(long long positions, int strips, Step step) {
  const long long first = blockIdx.x / strips * positions;
  const long long start = blockIdx.x % strips * blockDim.y + threadIdx.y;
  for (long long p = start; p < positions; p += static_cast<long long>(strips) * blockDim.y) step(first + p);
}

// join(own, other), values of threads that have the same channels, until the first row of the block has all.
template <int VALUES, typename A, typename Join>
__device__ void join_down(A (&own)[VALUES], Join join) {
  __shared__ A shared[VALUES][MOST_THREADS];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int rows = blockDim.y, half; rows > 1; rows = half) {
    half = (rows + 1) / 2;
    if (threadIdx.y >= half && threadIdx.y < rows)
      for (int i = 0; i < VALUES; i++) shared[i][thread] = own[i];
    __syncthreads();
    if (threadIdx.y + half >= rows) continue;
    A other[VALUES];
    for (int i = 0; i < VALUES; i++) other[i] = shared[i][thread + half * blockDim.x];
    join(own, other);
  }
}
