// Sums down the columns of a matrix, by blocks of COLUMNS by LINES threads: a thread adds up some rows of its columns,
// the lines are added up then. It needs common.cuh before it.

constexpr int COLUMNS = 32, LINES = 8;

// The sum of packs value(i), i = first, first + step, … below end.
template <typename Value>
__device__ auto sum_of(long long first, long long end, long long step, Value value) {
  decltype(value(first)) sum{};
#pragma unroll 4
  for (long long i = first; i < end; i += step) {
    const auto pack = value(i);
    for (int k = 0; k < sizeof(pack.at) / sizeof(pack.at[0]); k++) sum.at[k] += pack.at[k];
  }
  return sum;
}

// The sums of all lines added up, for line 0; for all threads of the block to call.
template <typename P>
__device__ P sum_lines(P sum) {
  __shared__ P sums[LINES][COLUMNS];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0)
    sum = sum_of(0, LINES, 1, [&](long long line) { return sums[line][threadIdx.x]; });
  __syncthreads();  // the next one writes to the same place
  return sum;
}

// step(column) for every place of a row of `width` numbers, shared among the blocks along an axis of the grid; for all
// threads of a block alike, those behind the end too.
template <int WIDTH, typename Step>
__device__ void over_columns(long long width, unsigned block, unsigned blocks, Step step) {
  constexpr long long OWN = COLUMNS * WIDTH;
  for (long long base = block * OWN; base < width; base += blocks * OWN) step(Place<WIDTH>{base + threadIdx.x * WIDTH});
}

// The rows that a thread adds up, and which block of how many its columns are in.
struct Strip {
  long long first, end, step;
  unsigned block, blocks;
};

// write(at, Σ value(place, at)) over a strip's places in the column `at` of a matrix of type T, by line 0.
template <typename T, typename Value, typename Write>
__device__ void sum_columns(bool wide, long long width, Strip strip, Value value, Write write) {
  const auto sums = [&](auto pack) {
    constexpr int WIDTH = pack.width;
    over_columns<WIDTH>(width, strip.block, strip.blocks, [&](auto at) {
      const bool inside = at.start < width;
      const auto sum = sum_lines(sum_of(strip.first, inside ? strip.end : 0, strip.step, [&](long long i) {
        return value(Place<WIDTH>{i * width + at.start}, at);
      }));
      if (threadIdx.y == 0 && inside) write(at, sum);
    });
  };
  if (wide && width % (16 / sizeof(T)) == 0)
    sums(Place<16 / sizeof(T)>{});
  else
    sums(Place<1>{});
}

// That of a grid whose blocks along y share the rows.
__device__ inline Strip strip_of_grid(long long rows) {
  return {static_cast<long long>(blockIdx.y) * LINES + threadIdx.y, rows, static_cast<long long>(gridDim.y) * LINES,
          blockIdx.x, gridDim.x};
}
