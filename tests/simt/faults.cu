// Kernels with a fault each, for the tests of the emulator itself.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <string>

#include "common/cuda.h"
#include "common/tensor.h"

namespace zoo::faults {
namespace {

__global__ void sound(const float* in, float* out) {
  __shared__ float shared[64];
  shared[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void race(const float* in, float* out) {
  __shared__ float shared[64];
  shared[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void warp_race(const float* in, float* out) {
  __shared__ float shared[64];
  __shared__ float twice[64];
  shared[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  twice[threadIdx.x] = shared[threadIdx.x ^ 1];
  out[threadIdx.x] = twice[threadIdx.x ^ 2];
}

__global__ void uninitialised(const float* in, float* out) {
  __shared__ float shared[64];
  if (threadIdx.x > 0) shared[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void beyond(const float* in, float* out) { out[threadIdx.x + (threadIdx.x == 63)] = in[threadIdx.x]; }

__global__ void divergent(const float* in, float* out) {
  if (in[threadIdx.x] > 0) __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
  if (in[threadIdx.x] <= 0) {
    __syncthreads();
  }
}

__global__ void half_a_warp(const float* in, float* out) {
  if (threadIdx.x % 32 < 16) return;
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, in[threadIdx.x], 1);
}

Tensor run(Tensor in, std::string name) {
  const torch::stable::accelerator::DeviceGuard guard(in.get_device_index());
  const int64_t shape[] = {64};
  Tensor out = torch::stable::new_empty(in, {shape, 1});
  const float* from = in.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const cudaStream_t stream = cuda::stream(in);
  if (name == "sound") sound<<<1, 64, 0, stream>>>(from, to);
  if (name == "race") race<<<1, 64, 0, stream>>>(from, to);
  if (name == "warp_race") warp_race<<<1, 64, 0, stream>>>(from, to);
  if (name == "uninitialised") uninitialised<<<1, 64, 0, stream>>>(from, to);
  if (name == "beyond") beyond<<<1, 64, 0, stream>>>(from, to);
  if (name == "divergent") divergent<<<1, 64, 0, stream>>>(from, to);
  if (name == "half_a_warp") half_a_warp<<<1, 64, 0, stream>>>(from, to);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace zoo::faults

STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m) { m.impl("faults", TORCH_BOX(&zoo::faults::run)); }
