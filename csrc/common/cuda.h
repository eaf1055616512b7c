// What every CUDA kernel needs: the device of its input, torch's current stream on it, and checked calls.
//
//   const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
//   kernel<<<blocks, threads, 0, zoo::cuda::stream(features)>>>(...);
//   STD_CUDA_KERNEL_LAUNCH_CHECK();
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "common/tensor.h"

namespace zoo::cuda {

inline cudaStream_t stream(const Tensor& tensor) {
  void* handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &handle));
  return static_cast<cudaStream_t>(handle);
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A grid's x dimension, which may be as large as 2^31 - 1 (y and z end at 65535).
inline unsigned int grid(int64_t blocks, const char* what) {
  require(blocks > 0 && blocks <= 2147483647LL, what, " is too large for one kernel launch (", blocks, " blocks)");
  return static_cast<unsigned int>(blocks);
}

}  // namespace zoo::cuda
