// CUDA C++ kernels on the CPU, for machines without a GPU: the same .cu file, compiled by the C++ compiler.
//
// Blocks run one after the other. The threads of a block are fibers, which switch only where CUDA threads may meet: at
// barriers and in warp operations. Between those a fiber runs alone, in an order that the caller chooses; a result that
// depends on the order has a race, or adds up in an order that is not fixed. What CUDA leaves undefined is reported here, and the launch ends.
#pragma once
#include <link.h>
#include <math.h>
#include <cmath>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
// A block owns it while it runs. As thread-locals the shared arrays lie side by side, so that each block can find them
// full of NaN; AddressSanitizer guards only what is no thread-local.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

struct bfloat16;
struct float16;
using std::max;
using std::min;

struct Index {
  unsigned x, y, z;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_host {

enum State { READY, AT_BARRIER, AT_WARP, DONE };
enum Order { FORWARD, REVERSE, RANDOM };
constexpr size_t STACK = 128 << 10;

struct Fiber {
  ucontext_t context;
  State state;
  unsigned mask;   // of the warp operation that it waits in
  uint64_t value;  // what it shows to its warp there
};

inline std::vector<Fiber> fibers;
inline std::unique_ptr<char[]> stacks;  // of all fibers; memory that no fiber reaches is never touched
inline ucontext_t scheduler;
inline int current, threads;
inline std::function<void()> kernel;
inline std::string problem;  // of the launch; empty: none

inline std::string named(Index i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

inline void report(const std::string& what) {
  if (problem.empty()) problem = what + ", in block " + named(blockIdx);
}

inline void leave(State state) {
  fibers[current].state = state;
  swapcontext(&fibers[current].context, &scheduler);
}

inline void entry() {
  kernel();
  leave(DONE);
}

inline void start(int t) {
  Fiber& f = fibers[t];
  f.state = READY;
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = stacks.get() + t * STACK;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = nullptr;
  makecontext(&f.context, entry, 0);
}

inline void go_on(int t) {
  current = t;
  threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
  swapcontext(&scheduler, &fibers[t].context);
}

// Let a warp go on whose lanes have all come to the operation they were named for.
inline bool release_warp(int first) {
  const int last = std::min(threads, first + 32);
  bool moved = false;
  for (int t = first; t < last; t++) {
    if (fibers[t].state != AT_WARP) continue;
    bool all = true;
    for (int lane = 0; lane < 32; lane++) {
      if (!(fibers[t].mask >> lane & 1)) continue;
      if (first + lane >= last || fibers[first + lane].state == DONE) {
        report("a warp operation names lane " + std::to_string(lane) + ", which is not there or has returned");
        return false;
      }
      all &= fibers[first + lane].state == AT_WARP && fibers[first + lane].mask == fibers[t].mask;
    }
    if (!all) continue;
    const unsigned mask = fibers[t].mask;
    for (int lane = 0; lane < 32; lane++)
      if (mask >> lane & 1) fibers[first + lane].state = READY;
    moved = true;
  }
  return moved;
}

inline bool release_barrier() {
  int alive = 0, waiting = 0;
  for (int t = 0; t < threads; t++) alive += fibers[t].state != DONE, waiting += fibers[t].state == AT_BARRIER;
  if (!waiting || waiting < alive) return false;
  for (int t = 0; t < threads; t++)
    if (fibers[t].state == AT_BARRIER) fibers[t].state = READY;
  return true;
}

inline thread_local char anchor;  // among the shared arrays

inline int poison(dl_phdr_info* library, size_t, void*) {
  for (int i = 0; i < library->dlpi_phnum; i++) {
    char* start = static_cast<char*>(library->dlpi_tls_data);
    const size_t size = library->dlpi_phdr[i].p_memsz;
    if (library->dlpi_phdr[i].p_type != PT_TLS || &anchor < start || &anchor >= start + size) continue;
    std::memset(start, 0xff, size);
    return 1;
  }
  return 0;
}

// Let the lanes of a warp run to where they wait; whether any did.
inline bool run_warp(int first, Order order, std::mt19937& random) {
  std::vector<int> lanes(std::min(threads - first, 32));
  std::iota(lanes.begin(), lanes.end(), first);
  if (order == REVERSE) std::reverse(lanes.begin(), lanes.end());
  if (order == RANDOM) std::shuffle(lanes.begin(), lanes.end(), random);
  bool moved = false;
  for (int t : lanes)
    if (fibers[t].state == READY) go_on(t), moved = true;
  return release_warp(first) || moved;
}

// A warp runs as far as it can before the next one does, so that it may be far ahead of it; in random order for as long
// as a coin says.
inline void run_block(Order order, std::mt19937& random) {
#ifndef __SANITIZE_ADDRESS__
  if (!dl_iterate_phdr(poison, nullptr)) report("the shared arrays were not found");
#endif
  std::vector<int> warps;
  for (int first = 0; first < threads; first += 32) warps.push_back(first);
  if (order == REVERSE) std::reverse(warps.begin(), warps.end());
  for (int t = 0; t < threads; t++) start(t);
  for (bool moved = true; moved && problem.empty();) {
    if (order == RANDOM) std::shuffle(warps.begin(), warps.end(), random);
    moved = false;
    for (int first : warps)
      while (run_warp(first, order, random)) {
        moved = true;
        if (!problem.empty() || (order == RANDOM && random() % 2)) break;
      }
    moved |= release_barrier();
  }
  for (int t = 0; t < threads && problem.empty(); t++)
    if (fibers[t].state != DONE) report("a barrier or warp operation that not all threads reach");
}

inline void launch(const unsigned* size, Order order, unsigned seed) {
  gridDim = {size[0], size[1], size[2]};
  blockDim = {size[3], size[4], size[5]};
  threads = blockDim.x * blockDim.y * blockDim.z;
  if (fibers.size() < static_cast<size_t>(threads)) {
    fibers = std::vector<Fiber>(threads);
    stacks.reset(new char[threads * STACK]);
  }
  std::mt19937 random(seed);
  for (unsigned z = 0; z < gridDim.z; z++)
    for (unsigned y = 0; y < gridDim.y; y++)
      for (unsigned x = 0; x < gridDim.x && problem.empty(); x++) {
        blockIdx = {x, y, z};
        run_block(order, random);
      }
}

// Shows `value` to the warp, and gives what lane `from` showed.
template <typename T>
T exchange(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= 8);
  if (!(mask >> (current & 31) & 1)) report("a warp operation by a lane that its mask does not name");
  if (from < 0 || from > 31 || !(mask >> from & 1)) report("a shuffle from a lane that its mask does not name");
  std::memcpy(&fibers[current].value, &value, sizeof(T));
  fibers[current].mask = mask;
  leave(AT_WARP);
  std::memcpy(&value, &fibers[std::min((current & ~31) + from, threads - 1)].value, sizeof(T));
  leave(AT_WARP);  // nobody shows another before all have looked
  return value;
}

// The lanes that showed the same value.
template <typename T>
unsigned match(unsigned mask, T value) {
  static_assert(sizeof(T) <= 8);
  if (!(mask >> (current & 31) & 1)) report("a warp operation by a lane that its mask does not name");
  std::memcpy(&fibers[current].value, &value, sizeof(T));
  fibers[current].mask = mask;
  leave(AT_WARP);
  unsigned alike = 0;
  const Fiber* first = &fibers[current & ~31];
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1 && !std::memcmp(&first[lane].value, &value, sizeof(T))) alike |= 1u << lane;
  leave(AT_WARP);
  return alike;
}

// Half precision: the hardware's conversions, to the nearest, ties to even.
inline float half_value(unsigned short bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent   ? std::ldexp(float(fraction + 1024), exponent - 25)
                                  : std::ldexp(float(fraction), -24);
  return bits >> 15 ? -size : size;
}

inline unsigned short half_bits(float x) {
  const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  if (x != x) return 0x7fff;
  const float size = std::fabs(x);
  if (size >= 65520) return sign | 0x7c00;
  int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
  const int steps = std::nearbyint(std::ldexp(size, 10 - exponent));  // 2048 carries into the exponent by itself
  return sign | (steps < 1024 ? steps : ((exponent + 15) << 10) + steps - 1024);
}

// The types of a kernel's parameters, as NumPy names them, with a `*` for pointers.
template <typename T> inline const char* type_name = nullptr;
template <> inline const char* type_name<float> = "float32";
template <> inline const char* type_name<double> = "float64";
template <> inline const char* type_name<bfloat16> = "bfloat16";
template <> inline const char* type_name<float16> = "float16";
template <> inline const char* type_name<bool> = "bool";
template <> inline const char* type_name<unsigned char> = "uint8";
template <> inline const char* type_name<int> = "int32";
template <> inline const char* type_name<unsigned> = "uint32";
template <> inline const char* type_name<long long> = "int64";
template <> inline const char* type_name<unsigned long long> = "uint64";

template <typename T>
std::string parameter() {
  using Value = std::remove_pointer_t<T>;
  if (!type_name<std::remove_const_t<Value>>) return "void" + std::to_string(8 * sizeof(T));  // NumPy's name of a struct
  return std::string(std::is_const_v<Value> ? "const " : "") + type_name<std::remove_const_t<Value>> +
         (std::is_pointer_v<T> ? "*" : "");
}

template <auto KERNEL> struct Launcher;
template <typename... P, void (*KERNEL)(P...)>
struct Launcher<KERNEL> {
  static const char* signature() {
    static const std::string text = ((parameter<P>() + ",") + ... + "");
    return text.c_str();
  }
  // `arguments` are the addresses of the values, as cuLaunchKernel takes them. Gives what was wrong, "" for nothing.
  static const char* run(const unsigned* size, void** arguments, int order, unsigned seed) {
    call(size, arguments, order, seed, std::index_sequence_for<P...>());
    return problem.c_str();
  }
  template <size_t... I>
  static void call(const unsigned* size, void** arguments, int order, unsigned seed, std::index_sequence<I...>) {
    problem.clear();
    kernel = [arguments] { KERNEL(*static_cast<P*>(arguments[I])...); };
    launch(size, static_cast<Order>(order), seed);
  }
};

}  // namespace cuda_host

#define CUDA_HOST_EXPORT(number, ...)                                                                         \
  extern "C" const char* signature_##number() { return cuda_host::Launcher<__VA_ARGS__>::signature(); }       \
  extern "C" const char* run_##number(const unsigned* size, void** arguments, int order, unsigned seed) {     \
    return cuda_host::Launcher<__VA_ARGS__>::run(size, arguments, order, seed);                               \
  }

inline void __syncthreads() { cuda_host::leave(cuda_host::AT_BARRIER); }
inline void __syncwarp(unsigned mask = ~0u) { cuda_host::exchange(mask, 0, cuda_host::current & 31); }
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) { return cuda_host::exchange(mask, value, lane & 31); }
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return cuda_host::exchange(mask, value, (cuda_host::current & 31) ^ lanes);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes) {
  const int own = cuda_host::current & 31;
  return cuda_host::exchange(mask, value, own + lanes > 31 ? own : own + lanes);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
  const int own = cuda_host::current & 31;
  return cuda_host::exchange(mask, value, lanes > unsigned(own) ? own : own - lanes);
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) { return cuda_host::match(mask, value); }
inline void sincospif(float x, float* sine, float* cosine) {
  *sine = std::sin(M_PI * x);
  *cosine = std::cos(M_PI * x);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <typename T>
T atomicAdd(T* to, T value) { return std::exchange(*to, *to + value); }
template <typename T>
T atomicMax(T* to, T value) { return std::exchange(*to, std::max(*to, value)); }
