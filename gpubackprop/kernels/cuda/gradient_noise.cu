// Gradient noise (optim/noise.py): a block for each chunk of the flat buffers.
#include "common.cuh"
#include "chunks.cuh"
#include "philox.cuh"

constexpr int ROW = 64;  // GradientNoise.ROW

// The noise of a param's numbers at a place of it: four of them are of one block of Philox.
template <int WIDTH>
__device__ Pack<float, WIDTH> noise(Place<WIDTH> at, const Draws& draws) {
  Pack<float, WIDTH> pack;
  Words words = philox(at.start % ROW / 4, at.start / ROW, draws);
  for (int k = 0; k < WIDTH; k += 2) {
    const int i = (at.start + k) % 4 / 2 * 2;
    const auto pair = normal_pair(words.pick(i), words.pick(i + 1));
    if constexpr (WIDTH == 1) {
      pack.at[0] = at.start % 2 ? pair.at[1] : pair.at[0];
    } else {
      pack.at[k] = pair.at[0];
      pack.at[k + 1] = pair.at[1];
    }
  }
  return pack;
}

// grad ← grad + deviation·noise: grad (P,); of each run its start, and the stream of its random numbers
template <typename T>
__global__ void add(const long long* chunks, const long long* starts, const unsigned* streams, T* grad,
                    const T* deviation, const unsigned long long* step, unsigned long long seed) {
  const Chunk chunk = chunk_of(chunks);
  const T size = *deviation;
  const Draws draws{static_cast<unsigned>(*step), streams[chunk.run], seed};
  const long long start = starts[chunk.run];
  grad += start;
  over_block<T>(chunk.count, aligned(grad), [&](auto at) {
    at.start += chunk.start - start;
    auto g = load(grad, at);
    const auto drawn = noise(at, draws);
    for (int k = 0; k < at.width; k++) g.at[k] += size * drawn.at[k];
    store(grad, at, g);
  });
}
