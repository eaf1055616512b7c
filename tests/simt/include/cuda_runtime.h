// CUDA's words on a CPU, for the operators' kernels: a thread is a fiber, blocks run one after the other.
//
// It also watches. Fibers of a block run in an order that changes with the schedule, so that results which differ
// between schedules tell of a race. Shared memory and new tensors are filled with 0xff bytes (NaN, -1) before use, so
// that an uninitialised read spoils the result. New tensors have guard zones that are looked at after every kernel.
// Threads that wait for each other at different barriers, or for one that has ended, are named with their kernel.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <math.h>

#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

// ---- the emulator ------------------------------------------------------------------------------------------------

namespace simt {

struct Index {
  unsigned int x = 0, y = 0, z = 0;
};
struct Dim {
  unsigned int x = 1, y = 1, z = 1;
};

struct Thread {
  Index thread, block;
  Dim block_dim, grid_dim;
};

Thread& now();  // the thread that runs

enum class Sync { warp, shuffle, ballot, reduce };

// All lanes of the mask meet; every one gets what each of them brought.
void meet(unsigned int mask, Sync kind, int line, uint64_t mine, uint64_t (&all)[32]);
// All threads of the block that have not ended meet; gives whether any brought true.
bool meet_block(bool mine, int line);

// A kernel's own shared array: poisoned when the first thread of a block comes by.
void claim_shared(void* data, size_t bytes);
void* dynamic_shared();

void run(const char* name, Dim grid, Dim block, size_t shared, const std::function<void()>& kernel);

// Arguments are evaluated once and copied for every thread, as a launch does.
template <typename Body, typename... Arguments>
void launch(const char* name, unsigned int grid, unsigned int block, size_t shared, const Body& body,
            Arguments... arguments) {
  run(name, Dim{grid}, Dim{block}, shared, [&] { body(arguments...); });
}

struct DeviceGuard {  // every operator begins with one
  explicit DeviceGuard(int device);
};
inline int current_stream(int, void** handle) {
  *handle = nullptr;
  return 0;
}

torch::stable::Tensor guarded(const torch::stable::Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape,
                              std::optional<torch::headeronly::ScalarType> dtype = std::nullopt);

template <typename T>
uint64_t pack(T value) {
  static_assert(sizeof(T) <= 8, "shuffles move up to eight bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <typename T>
T unpack(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}
inline unsigned int lane() { return now().thread.x % 32; }

template <typename T>
T shuffle(unsigned int mask, T value, unsigned int from, int line) {
  uint64_t all[32];
  meet(mask, Sync::shuffle, line, pack(value), all);
  return from < 32 ? unpack<T>(all[from]) : value;
}

template <typename T>
T least(unsigned int mask, T value, int line) {
  uint64_t all[32];
  meet(mask, Sync::reduce, line, pack(value), all);
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1 && unpack<T>(all[i]) < value) value = unpack<T>(all[i]);
  }
  return value;
}

inline unsigned int ballot(unsigned int mask, bool value, int line) {
  uint64_t all[32];
  meet(mask, Sync::ballot, line, value, all);
  unsigned int bits = 0;
  for (int i = 0; i < 32; ++i) bits |= (mask >> i & 1 && all[i] != 0 ? 1u : 0u) << i;
  return bits;
}

inline void sync_warp(unsigned int mask, int line) {
  uint64_t all[32];
  meet(mask, Sync::warp, line, 0, all);
}

}  // namespace simt

// ---- CUDA's own names --------------------------------------------------------------------------------------------

#define threadIdx (::simt::now().thread)
#define blockIdx (::simt::now().block)
#define blockDim (::simt::now().block_dim)
#define gridDim (::simt::now().grid_dim)

#define __syncthreads() static_cast<void>(::simt::meet_block(false, __LINE__))
#define __syncthreads_or(value) ::simt::meet_block(value, __LINE__)
#define SIMT_MASK(first, ...) first
#define __syncwarp(...) ::simt::sync_warp(SIMT_MASK(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu), __LINE__)
#define __ballot_sync(mask, value) ::simt::ballot(mask, value, __LINE__)
#define __reduce_min_sync(mask, value) ::simt::least(mask, value, __LINE__)
#define __shfl_sync(mask, value, from) ::simt::shuffle(mask, value, static_cast<unsigned int>(from) % 32, __LINE__)
#define __shfl_down_sync(mask, value, offset) ::simt::shuffle(mask, value, ::simt::lane() + (offset), __LINE__)
#define __shfl_xor_sync(mask, value, offset) ::simt::shuffle(mask, value, ::simt::lane() ^ (offset), __LINE__)

template <typename T>
T atomicAdd(T* place, T value) {  // fibers change over at barriers only
  const T before = *place;
  *place = before + value;
  return before;
}

inline int __popc(unsigned int x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned int __float_as_uint(float x) { return simt::unpack<unsigned int>(simt::pack(x)); }
inline float __uint_as_float(unsigned int x) { return simt::unpack<float>(simt::pack(x)); }
inline float cospif(float x) { return static_cast<float>(cos(M_PI * static_cast<double>(x))); }
inline float sinpif(float x) { return static_cast<float>(sin(M_PI * static_cast<double>(x))); }

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
using std::isfinite;
using std::isnan;

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum cudaMemcpyKind { cudaMemcpyDeviceToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= 227 * 1024 ? cudaSuccess : 1;  // of shared memory in a block of sm_90
}
#define STD_CUDA_CHECK(call) \
  if ((call) != cudaSuccess) throw std::runtime_error("a CUDA call fails: " #call)
#define STD_CUDA_KERNEL_LAUNCH_CHECK() static_cast<void>(0)
