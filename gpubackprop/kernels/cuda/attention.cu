// What stands between the two products of attention: the weights p (N, h, T, S) of scores (N, h, T, S), and the scores'
// gradients. The products are cuBLASLt's; the scores come scaled, in Acc<T>.
#include "common.cuh"
#include "philox.cuh"

struct Query {
  long long sample, head, query;
};

// Which query a row is; attention.py lets no more than 2³² of them come, and long divisions would take longer than a
// short row.
__device__ inline Query query_of(unsigned row, unsigned heads, unsigned queries) {
  return {row / (heads * queries), row / queries % heads, row % queries};
}

// How many of the first keys a query sees.
__device__ inline long long limit_of(long long query, long long queries, long long keys, int causal) {
  const long long limit = causal ? query + 1 + keys - queries : keys;
  return limit < 0 ? 0 : limit;
}

// Bit k says whether word `start` + k of a sample is not below `least`: whether that weight is kept.
template <int WIDTH>
__device__ unsigned kept(long long start, unsigned sample, const Draws& draws, unsigned least) {
  unsigned bits = 0;
  Words words = philox(start / 4, sample, draws);
  for (int k = 0; k < WIDTH; k++) {
    const long long i = start + k;
    if (k > 0 && i % 4 == 0) words = philox(i / 4, sample, draws);
    bits |= static_cast<unsigned>(words.pick(i % 4) >= least) << k;
  }
  return bits;
}

// p = softmax(scores) over the keys that are seen, 0 elsewhere; key_mask (N, S) or missing
// With DROPPED: weights = p factor, or 0 where a weight is dropped; there p is kept with the sign -.
// A row of threads for each of the `rows` queries of all heads; p may be where the scores are.
template <typename T, bool DROPPED>
__global__ void forward(const Acc<T>* scores, const bool* key_mask, T* p, T* weights, const long long* samples,
                        const unsigned long long* step, unsigned long long seed, unsigned stream, unsigned least,
                        Acc<T> factor, int causal, long long rows, long long heads, long long queries, long long keys) {
  const long long row = row_of_threads();
  if (row >= rows) return;
  const Query own = query_of(row, heads, queries);
  const long long drawn = (own.head * queries + own.query) * keys;
  scores += row * keys;
  p += row * keys;
  if (DROPPED) weights += row * keys;
  if (key_mask) key_mask += own.sample * keys;
  const bool wide = aligned(scores, p, weights);
  const long long limit = limit_of(own.query, queries, keys, causal);
  const long long stop = limit ? limit : keys;  // where nothing is seen all is read: a NaN has to get through
  const auto hidden = [=](long long key) { return key >= limit || (key_mask && !key_mask[key]); };
  Acc<T> peak = lowest<Acc<T>>();
  over_block<T>(keys, wide, [&](auto at) {
    if (at.start >= stop) return;
    const auto pack = load(scores, at);
    for (int k = 0; k < at.width; k++)
      if (!hidden(at.start + k)) peak = Largest::join(peak, pack.at[k]);
  });
  peak = block_join<Largest>(peak);
  const auto part = [=](Acc<T> score, long long key) { return hidden(key) ? score - score : exp(score - peak); };
  Acc<T> total = 0;
  over_block<T>(keys, wide, [&](auto at) {
    if (at.start >= stop) return;
    const auto pack = load(scores, at);
    for (int k = 0; k < at.width; k++) total += part(pack.at[k], at.start + k);
  });
  total = block_sum(total);
  const Acc<T> share = total < 1 ? Acc<T>(1) : 1 / total;  // at least 1, the largest one's, where any key is seen
  const Draws draws{DROPPED ? static_cast<unsigned>(*step) : 0, stream, seed};
  over_block<T>(keys, wide, [&](auto at) {
    Pack<Acc<T>, at.width> pack{}, dropped{};
    if (at.start < stop) {
      pack = load(scores, at);
      for (int k = 0; k < at.width; k++) pack.at[k] = part(pack.at[k], at.start + k) * share;
      if (DROPPED) {
        const unsigned bits = kept<at.width>(drawn + at.start, samples[own.sample], draws, least);
        for (int k = 0; k < at.width; k++) {
          dropped.at[k] = pack.at[k] * (bits >> k & 1 ? factor : Acc<T>(0));
          if (!(bits >> k & 1)) pack.at[k] = -pack.at[k];
        }
      }
    }
    store(p, at, pack);
    if (DROPPED) store(weights, at, dropped);
  });
}

// ds = p (dp - Σ y dy), that sum over the size V of a value; p, dp, ds (N, h, T, S); y, dy (N, T, h, V)
// With DROPPED: dp comes times factor, or times 0 where p has the sign -; weights is made again.
// A row of threads for each of the `rows` queries of all heads; ds may be where dp is.
template <typename T, bool DROPPED>
__global__ void backward(const T* p, const Acc<T>* dp, const T* y, const T* dy, T* ds, T* weights, Acc<T> factor,
                         int causal, long long rows, long long heads, long long queries, long long keys,
                         long long size) {
  const long long row = row_of_threads();
  if (row >= rows) return;
  const Query own = query_of(row, heads, queries);
  const long long value = ((own.sample * queries + own.query) * heads + own.head) * size;
  p += row * keys;
  dp += row * keys;
  ds += row * keys;
  if (DROPPED) weights += row * keys;
  y += value;
  dy += value;
  Acc<T> delta = 0;
  over_block<T>(size, aligned(y, dy), [&](auto at) {
    const auto left = load(y, at), slope = load(dy, at);
    for (int k = 0; k < at.width; k++) delta += left.at[k] * slope.at[k];
  });
  delta = block_sum(delta);
  const long long limit = limit_of(own.query, queries, keys, causal);
  over_block<T>(keys, aligned(p, dp, ds, weights), [&](auto at) {
    Pack<Acc<T>, at.width> slope{}, dropped{};
    if (at.start < limit) {
      auto weight = load(p, at);
      slope = load(dp, at);
      if (DROPPED) {
        for (int k = 0; k < at.width; k++) {
          const Acc<T> kept = copysign(Acc<T>(1), weight.at[k]) > 0 ? factor : Acc<T>(0);
          weight.at[k] = fabs(weight.at[k]);
          dropped.at[k] = weight.at[k] * kept;
          slope.at[k] *= kept;
        }
      }
      for (int k = 0; k < at.width; k++) slope.at[k] = weight.at[k] * (slope.at[k] - delta);
    }
    store(ds, at, slope);
    if (DROPPED) store(weights, at, dropped);
  });
}
