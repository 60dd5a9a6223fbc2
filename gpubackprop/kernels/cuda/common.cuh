// What the kernels share: the types of numbers, packs of 16 bytes, the logistic function, and sums over a block. It
// stands in the sources as text: include it once.

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Half the numbers of a GPU are 16 bits long in memory and float in registers. Own types, since NVIDIA's headers are not
// found on every machine that has its compiler; conversions round to the nearest, ties to even, and keep NaN.
union Bits {
  float number;
  unsigned word;
};

struct bfloat16 {
  unsigned short bits;
  bfloat16() = default;
  __device__ bfloat16(float x) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    const unsigned word = Bits{x}.word;
    bits = x != x ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
#endif
  }
  __device__ operator float() const {
    Bits wide;
    wide.word = static_cast<unsigned>(bits) << 16;
    return wide.number;
  }
};

struct float16 {
  unsigned short bits;
  float16() = default;
#ifdef __CUDACC__
  __device__ float16(float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
  __device__ operator float() const {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
#else
  float16(float x) : bits(cuda_host::half_bits(x)) {}
  operator float() const { return cuda_host::half_value(bits); }
#endif
};

// Acc<T>: what numbers of type T in memory are computed with, and summed.
template <typename T>
struct Computed { using type = T; };
template <>
struct Computed<bfloat16> { using type = float; };
template <>
struct Computed<float16> { using type = float; };
template <typename T>
using Acc = typename Computed<T>::type;

// The largest finite number, and the one below all others.
template <typename A>
__device__ A largest() { return sizeof(A) == 8 ? A(1.7976931348623157e308) : A(3.4028234663852886e38); }
template <typename A>
__device__ A lowest() { return -largest<A>(); }

// A place in an array where a thread works on WIDTH numbers at once.
template <int WIDTH>
struct Place {
  static constexpr int width = WIDTH;
  long long start;
};

template <typename T, int WIDTH>
struct alignas(sizeof(T) * WIDTH < 16 ? sizeof(T) * WIDTH : 16) Pack {
  T at[WIDTH];
};

// The numbers at a place, as they are computed with.
template <int WIDTH, typename T>
__device__ Pack<Acc<T>, WIDTH> load(const T* from, Place<WIDTH> place) {
  const auto raw = *reinterpret_cast<const Pack<T, WIDTH>*>(from + place.start);
  Pack<Acc<T>, WIDTH> pack;
  for (int k = 0; k < WIDTH; k++) pack.at[k] = raw.at[k];
  return pack;
}

template <int WIDTH, typename T>
__device__ void store(T* to, Place<WIDTH> place, const Pack<Acc<T>, WIDTH>& pack) {
  Pack<T, WIDTH> raw;
  for (int k = 0; k < WIDTH; k++) raw.at[k] = T(pack.at[k]);
  *reinterpret_cast<Pack<T, WIDTH>*>(to + place.start) = raw;
}

// Whether all these arrays start at a multiple of 16 bytes; a missing one does.
template <typename... T>
__device__ bool aligned(const T*... array) {
  return ((reinterpret_cast<unsigned long long>(array) | ...) & 15) == 0;
}

// Which row of the grid's threads this thread is in: blocks are one row of whole warps, or several rows of one warp.
__device__ inline long long row_of_threads() {
  return static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
}

// step(place) for all of n numbers of type T, shared among `threads` threads of which this is number `thread`: places
// of 16 bytes where `wide`, and single numbers for what is left.
template <typename T, typename Step>
__device__ void over(long long n, bool wide, long long thread, long long threads, Step step) {
  constexpr int WIDTH = 16 / sizeof(T);
  const long long packs = wide ? n / WIDTH : 0;
  for (long long i = thread; i < packs; i += threads) step(Place<WIDTH>{i * WIDTH});
  for (long long i = packs * WIDTH + thread; i < n; i += threads) step(Place<1>{i});
}

// As above, shared among all threads of a one-dimensional grid.
template <typename T, typename Step>
__device__ void over_grid(long long n, bool wide, Step step) {
  const long long threads = static_cast<long long>(gridDim.x) * blockDim.x;
  over<T>(n, wide, static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x, threads, step);
}

// As above, shared among a row of a block's threads.
template <typename T, typename Step>
__device__ void over_block(long long n, bool wide, Step step) {
  over<T>(n, wide, threadIdx.x, blockDim.x, step);
}

// 1 / (1 + e⁻ˣ), without overflow, and with full relative precision where it is small.
template <typename T>
__device__ T logistic(T x) {
  const T e = exp(-fabs(x));
  return (x >= 0 ? T(1) : x < 0 ? e : x) / (1 + e);  // a NaN is neither
}

struct Sum {
  template <typename T>
  __device__ static T join(T a, T b) { return a + b; }
};

struct Largest {
  template <typename T>
  __device__ static T join(T a, T b) { return b > a ? b : a; }
};

// All values of a row of a block's threads joined, for each of them. The row is a warp, or all of the block and of whole
// warps; the order is always the same, so that a result is too.
template <typename Join, typename T>
__device__ T block_join(T value) {
  __shared__ T warps[32];
  for (int step = WARP / 2; step > 0; step /= 2) value = Join::join(value, __shfl_xor_sync(ALL_LANES, value, step));
  if (blockDim.x == WARP) return value;
  if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = value;
  __syncthreads();
  value = warps[0];
  for (int w = 1; w < blockDim.x / WARP; w++) value = Join::join(value, warps[w]);
  __syncthreads();  // the next one writes to the same place
  return value;
}

template <typename T>
__device__ T block_sum(T value) {
  return block_join<Sum>(value);
}

// Of numbers x the largest, and Σ exp(x - peak), in one pass: a thread's own sum shrinks when it meets a larger one.
template <typename A>
struct Exponentials {
  A peak = lowest<A>(), total = 0;

  template <int WIDTH>
  __device__ void add(const Pack<A, WIDTH>& x) {
    A top = peak;
    for (int k = 0; k < WIDTH; k++) top = Largest::join(top, x.at[k]);
    if (top > peak) {
      total *= exp(peak - top);
      peak = top;
    }
    for (int k = 0; k < WIDTH; k++) total += exp(x.at[k] - peak);
  }

  // Those of a row of a block's threads, for each of them.
  __device__ void join() {
    const A top = block_join<Largest>(peak);
    total = block_sum(total * exp(peak - top));
    peak = top;
  }
};
