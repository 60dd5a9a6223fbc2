// LAMB: a block for each chunk of the flat buffers, all params in two launches. Formula: optim/lamb.py.
#include "common.cuh"
#include "chunks.cuh"

// A chunk's row of `scalars`, and u = m / first / (√v / second + eps) + decay·w.
template <typename T>
struct Lamb {
  T lr, share, first, second, decay, eps;
  __device__ Lamb(const T* row, T eps)
      : lr(row[0]), share(row[1]), first(row[2]), second(row[3]), decay(row[4]), eps(eps) {}
  __device__ T direction(T w, T m, T v) const { return m / first / (sqrt(v) / second + eps) + decay * w; }
};

// m ← m + share·(g - m);  v ← β₂·v + (1 - β₂)·g²;  Σ w² and Σ u² of each chunk: of_value, of_direction (chunks,)
template <typename T>
__global__ void moments(const long long* chunks, const Acc<T>* master, const Acc<T>* grad, Acc<T>* mean, Acc<T>* square,
                        const Acc<T>* scalars, const bool* ok, Acc<T>* of_value, Acc<T>* of_direction, Acc<T> beta2,
                        Acc<T> rest, Acc<T> eps, int width) {
  if (ok && !*ok) return;
  const Chunk chunk = chunk_of(chunks);
  const Lamb<Acc<T>> lamb(scalars + chunk.setting * width, eps);
  Acc<T> values = 0, directions = 0;
  over_block<Acc<T>>(chunk.count, aligned(master, grad, mean, square), [&](auto at) {
    at.start += chunk.start;
    const auto w = load(master, at), g = load(grad, at);
    auto m = load(mean, at), v = load(square, at);
    for (int k = 0; k < at.width; k++) {
      m.at[k] += lamb.share * (g.at[k] - m.at[k]);
      v.at[k] = beta2 * v.at[k] + rest * (g.at[k] * g.at[k]);
      const Acc<T> u = lamb.direction(w.at[k], m.at[k], v.at[k]);
      values += w.at[k] * w.at[k];
      directions += u * u;
    }
    store(mean, at, m);
    store(square, at, v);
  });
  values = block_sum(values);
  directions = block_sum(directions);
  if (threadIdx.x == 0) {
    of_value[blockIdx.x] = values;
    of_direction[blockIdx.x] = directions;
  }
}

// w ← w - lr·‖w‖/(‖u‖ + eps)·u, or lr·u where a norm is 0, and the working copy unless it is missing. u is computed
// again: that reads and writes no more than to keep it.
template <typename T>
__global__ void step(const long long* chunks, const int* first, Acc<T>* master, T* value, const Acc<T>* mean,
                     const Acc<T>* square, const Acc<T>* scalars, const bool* ok, const Acc<T>* of_value,
                     const Acc<T>* of_direction, Acc<T> eps, int width) {
  if (ok && !*ok) return;
  const Chunk chunk = chunk_of(chunks);
  const Lamb<Acc<T>> lamb(scalars + chunk.setting * width, eps);
  const Acc<T> whole = sqrt(run_sum(of_value, first, chunk.run)), turn = sqrt(run_sum(of_direction, first, chunk.run));
  const Acc<T> size = lamb.lr * (whole > 0 && turn > 0 ? whole / (turn + eps) : Acc<T>(1));
  over_block<Acc<T>>(chunk.count, aligned(master, value, mean, square), [&](auto at) {
    at.start += chunk.start;
    auto w = load(master, at);
    const auto m = load(mean, at), v = load(square, at);
    for (int k = 0; k < at.width; k++) w.at[k] -= size * lamb.direction(w.at[k], m.at[k], v.at[k]);
    store(master, at, w);
    if (value) store(value, at, w);
  });
}
