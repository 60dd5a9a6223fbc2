// Random numbers as in backend/philox.py, bit for bit: Philox4x32-10. It needs common.cuh before it.

// What a step's random numbers are a function of, but for the sample and the place in it.
struct Draws {
  unsigned step, stream;
  unsigned long long seed;
};

struct Words {
  unsigned at[4];
  // at[i] for an i that the compiler does not know: an array would have to lie in memory for that.
  __device__ unsigned pick(int i) const { return i == 0 ? at[0] : i == 1 ? at[1] : i == 2 ? at[2] : at[3]; }
};

// Words 4·block to 4·block + 3 of a sample.
__device__ inline Words philox(unsigned block, unsigned sample, const Draws& draws) {
  unsigned c0 = block, c1 = sample, c2 = draws.step, c3 = draws.seed >> 32;
  unsigned k0 = draws.seed, k1 = draws.stream;
  for (int round = 0; round < 10; round++) {
    const unsigned long long p0 = c0 * 0xD2511F53ull, p1 = c2 * 0xCD9E8D57ull;
    c0 = static_cast<unsigned>(p1 >> 32) ^ c1 ^ k0;
    c1 = p1;
    c2 = static_cast<unsigned>(p0 >> 32) ^ c3 ^ k1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Two independent standard normal numbers of two words, by Box and Muller; equal to the reference's to rounding.
__device__ inline Pack<float, 2> normal_pair(unsigned first, unsigned second) {
  const float share = (static_cast<float>(first) + 0.5f) * 0x1p-32f;  // in (0, 1]: its logarithm is finite
  const float radius = sqrtf(-2 * logf(share));
  float sine, cosine;
  sincospif(static_cast<float>(second >> 8) * 0x1p-23f, &sine, &cosine);  // of 2π 2⁻²⁴ (second >> 8)
  return {{radius * cosine, radius * sine}};
}
