// A stretch of the flat buffers that one block works on, all of one param or of several that are updated alike: where
// it starts, how many numbers it has, its row of the coefficients, and the number of the run of params that it is a part
// of. A row of the table (chunks, 4) of chunks.py.
struct alignas(16) Chunk {
  long long start, count, setting, run;
};

__device__ inline Chunk chunk_of(const long long* table) {
  return reinterpret_cast<const Chunk*>(table)[blockIdx.x];
}

// Σ over the chunks of a run, for each thread of the block, in the order of the chunks: numbers (chunks,), and
// first (runs + 1,), the first chunk of each run. Each block does it for itself: they are few, and it saves a launch.
template <typename T>
__device__ T run_sum(const T* numbers, const int* first, long long run) {
  T total = 0;
  for (int i = first[run] + threadIdx.x; i < first[run + 1]; i += blockDim.x) total += numbers[i];
  return block_sum(total);
}
