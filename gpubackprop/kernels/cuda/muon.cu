// Muon's matrices: a block for each chunk of the flat buffers, all matrices in a launch. Formula: optim/muon.py.
// Between `scale` and `step` come the products; what is orthogonalised lies in an array `x`, at shift[run] from a
// number's place.
#include "common.cuh"
#include "chunks.cuh"

// m ← m + share·(g - m);  x ← m, or, nesterov, g + (1 - share)·(m - g);  Σ x² of each chunk: partial (chunks,)
// scalars: four others, lr, share
template <typename T>
__global__ void direct(const long long* chunks, const long long* shift, const Acc<T>* grad, Acc<T>* mean, Acc<T>* x,
                       Acc<T>* partial, const Acc<T>* scalars, const bool* ok, int nesterov, int width) {
  if (ok && !*ok) return;
  const Chunk chunk = chunk_of(chunks);
  const Acc<T> share = scalars[chunk.setting * width + 5];
  x += shift[chunk.run];
  Acc<T> total = 0;
  over_block<Acc<T>>(chunk.count, aligned(grad, mean, x), [&](auto at) {
    at.start += chunk.start;
    auto m = load(mean, at), d = load(grad, at);
    for (int k = 0; k < at.width; k++) {
      m.at[k] += share * (d.at[k] - m.at[k]);
      d.at[k] = nesterov ? d.at[k] + (1 - share) * (m.at[k] - d.at[k]) : m.at[k];
      total += d.at[k] * d.at[k];
    }
    store(mean, at, m);
    store(x, at, d);
  });
  total = block_sum(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// x ← x / max(‖x‖, eps), of each matrix its own
template <typename T>
__global__ void scale(const long long* chunks, const int* first, const long long* shift, Acc<T>* x, const Acc<T>*
                      partial, const bool* ok, Acc<T> eps) {
  if (ok && !*ok) return;
  const Chunk chunk = chunk_of(chunks);
  const Acc<T> found = sqrt(run_sum(partial, first, chunk.run));
  const Acc<T> factor = 1 / (found < eps ? eps : found);  // a NaN stays
  x += shift[chunk.run];
  over_block<Acc<T>>(chunk.count, aligned(x), [&](auto at) {
    at.start += chunk.start;
    auto pack = load(x, at);
    for (int k = 0; k < at.width; k++) pack.at[k] *= factor;
    store(x, at, pack);
  });
}

// a·I + b·G + c·G², in the place of G²: gram and square (B, side, side), n numbers in all. With a·I in it a product
// with X gives the whole of the next X.
template <typename T>
__global__ void polynomial(const Acc<T>* gram, Acc<T>* square, Acc<T> a, Acc<T> b, Acc<T> c, long long side, long long
                           n) {
  over_grid<Acc<T>>(n, aligned(gram, square), [&](auto at) {
    const auto g = load(gram, at);
    auto s = load(square, at);
    for (int k = 0; k < at.width; k++) {
      const bool diagonal = (at.start + k) % (side * side) % (side + 1) == 0;
      s.at[k] = b * g.at[k] + c * s.at[k] + (diagonal ? a : Acc<T>(0));
    }
    store(square, at, s);
  });
}

// w ← keep·w - lr·factor[run]·x, and the working copy unless it is missing;  scalars: three others, keep, lr, share
template <typename T>
__global__ void step(const long long* chunks, const long long* shift, Acc<T>* master, T* value, const Acc<T>* x,
                     const Acc<T>* factor, const Acc<T>* scalars, const bool* ok, int width) {
  if (ok && !*ok) return;
  const Chunk chunk = chunk_of(chunks);
  const Acc<T> keep = scalars[chunk.setting * width + 3];
  const Acc<T> size = scalars[chunk.setting * width + 4] * factor[chunk.run];
  x += shift[chunk.run];
  over_block<Acc<T>>(chunk.count, aligned(master, value, x), [&](auto at) {
    at.start += chunk.start;
    auto w = load(master, at);
    const auto from = load(x, at);
    for (int k = 0; k < at.width; k++) w.at[k] = keep * w.at[k] - size * from.at[k];
    store(master, at, w);
    if (value) store(value, at, w);
  });
}
