// A stretch of the flat buffers that one block works on, all of one param or of several that are updated alike: where it
// starts, how many numbers it has, its row of the coefficients, and the number of the run of params that it is a part of.
// A row of the table (chunks, 4) of chunks.py.
struct alignas(16) Chunk {
  long long start, count, setting, run;
};

__device__ inline Chunk chunk_of(const long long* table) {
  return reinterpret_cast<const Chunk*>(table)[blockIdx.x];
}
