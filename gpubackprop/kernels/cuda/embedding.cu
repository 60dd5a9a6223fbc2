// Rows of a table (V, D) picked by x (M,), and their gradients added up. No float is added atomically: the places of x
// are put in the order of their rows first (`arrange`), then each row is the sum of its own, in their order, written
// once, be it zero. That reads dy and writes dweight once; a sort's several launches are spared by reading x, which is
// small, twice for every CHUNK rows.
#include "common.cuh"
#include "lines.cuh"

// y = weight[x], (M, D); NaN for a number that names no row
template <typename T>
__global__ void gather(const long long* x, const T* weight, T* y, long long rows, long long width, long long n) {
  over_grid<T>(n, width % (16 / sizeof(T)) == 0 && aligned(weight, y), [&](auto at) {
    const long long i = at.start / width, row = x[i];
    Pack<Acc<T>, at.width> pack;
    if (row >= 0 && row < rows) {
      pack = load(weight, Place<at.width>{row * width + at.start - i * width});
    } else {
      for (int k = 0; k < at.width; k++) pack.at[k] = sqrt(Acc<T>(-1));
    }
    store(y, at, pack);
  });
}

constexpr int CHUNK = 256, WARPS = 32;  // rows of a block of arrange, and its warps

// step(i, x[i]) for a share of x in its order, by the lanes of a warp together; -1 where there is none, or `padding`
template <typename Step>
__device__ void over_share(const long long* x, long long first, long long end, long long padding, Step step) {
#pragma unroll 4
  for (long long i = first + threadIdx.x % WARP; i - threadIdx.x % WARP < end; i += WARP) {
    const long long row = i < end ? x[i] : -1;
    step(i, row == padding ? -1 : row);
  }
}

// order: the places i of x sorted by x[i], equal ones by i, without those of row `padding` and of none; starts
// (V + 1,): where each row's places start in it. A block of WARPS warps for each CHUNK rows.
template <typename T>
__global__ void arrange(const long long* x, int* starts, int* order, long long padding, long long rows,
                        long long count) {
  __shared__ int places[WARPS][CHUNK];  // how many of a row are in a warp's share of x, then where the next one goes
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const long long low = static_cast<long long>(blockIdx.x) * CHUNK, high = low + CHUNK < rows ? low + CHUNK : rows;
  const long long share = (count + WARPS * WARP - 1) / (WARPS * WARP) * WARP, first = warp * share;
  const long long end = first + share < count ? first + share : count;
  for (int row = lane; row < CHUNK; row += WARP) places[warp][row] = 0;
  __syncwarp();
  int before = 0;  // places of the rows in front of the block's
  over_share(x, first, end, padding, [&](long long, long long row) {
    before += row >= 0 && row < low;
    if (row >= low && row < high) atomicAdd(&places[warp][row - low], 1);
  });
  before = block_sum(before);  // has a barrier, so that all warps have counted
  // A thread for each row: the sum of its counts, of the rows in front of it, and of the warps in front of each.
  __shared__ int sums[CHUNK / WARP];
  int own = 0, up_to = 0;
  if (threadIdx.x < CHUNK) {
    for (int w = 0; w < WARPS; w++) own += places[w][threadIdx.x];
    up_to = own;
    for (int step = 1; step < WARP; step *= 2) {
      const int other = __shfl_up_sync(ALL_LANES, up_to, step);
      if (lane >= step) up_to += other;
    }
    if (lane == WARP - 1) sums[warp] = up_to;
  }
  __syncthreads();
  if (threadIdx.x < CHUNK) {
    int place = before + up_to - own;
    for (int w = 0; w < warp; w++) place += sums[w];
    if (low + threadIdx.x < rows) starts[low + threadIdx.x] = place;
    if (low + threadIdx.x == rows - 1) starts[rows] = place + own;
    for (int w = 0; w < WARPS; w++) {
      const int here = places[w][threadIdx.x];
      places[w][threadIdx.x] = place;
      place += here;
    }
  }
  __syncthreads();
  over_share(x, first, end, padding, [&](long long i, long long row) {
    const int mine = row >= low && row < high ? row - low : -1;
    const unsigned alike = __match_any_sync(ALL_LANES, mine);
    const int rank = __popc(alike & ((1u << lane) - 1));
    if (mine >= 0) order[places[warp][mine] + rank] = i;
    __syncwarp();
    if (mine >= 0 && rank == 0) places[warp][mine] += __popc(alike);
    __syncwarp();
  });
}

constexpr int LONG = 32;  // a row of more places is added up by all lines together

template <int WIDTH, typename T>
__device__ void sum_rows(const T* dy, const int* starts, const int* order, T* dweight, long long rows,
                         long long width, int each) {
  const long long low = static_cast<long long>(blockIdx.x) * each, own = low + threadIdx.y;
  const long long high = low + each < rows ? low + each : rows;
  over_columns<WIDTH>(width, blockIdx.y, gridDim.y, [&](auto at) {
    const auto value = [&](long long i) { return load(dy, Place<WIDTH>{order[i] * width + at.start}); };
    if (own < high && at.start < width && starts[own + 1] - starts[own] <= LONG)
      store(dweight, Place<WIDTH>{own * width + at.start}, sum_of(starts[own], starts[own + 1], 1, value));
    for (long long row = low; row < high; row++) {
      const int first = starts[row], end = starts[row + 1];
      if (end - first <= LONG) continue;
      const auto sum = sum_lines(sum_of(first + threadIdx.y, at.start < width ? end : first, LINES, value));
      if (threadIdx.y == 0 && at.start < width) store(dweight, Place<WIDTH>{row * width + at.start}, sum);
    }
  });
}

// dweight (V, D): each row the sum of dy (M, D) at its places
// A block of COLUMNS by LINES threads for `each` rows (grid x), at most LINES; a thread has 16 bytes or a number.
template <typename T>
__global__ void scatter(const T* dy, const int* starts, const int* order, T* dweight, long long rows, long long width,
                        int each) {
  constexpr int WIDTH = 16 / sizeof(T);
  if (width % WIDTH == 0 && aligned(dy, dweight))
    sum_rows<WIDTH>(dy, starts, order, dweight, rows, width, each);
  else
    sum_rows<1>(dy, starts, order, dweight, rows, width, each);
}
