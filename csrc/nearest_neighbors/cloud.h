// A tensor of points as the kernels want it on CPU: contiguous, float or double, checked.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <memory>

#include "common/simd.h"
#include "common/tensor.h"
#include "nearest_neighbors/check.h"

namespace zoo::nearest_neighbors {

template <typename T>
class Cloud {
 public:
  using A = accumulate_t<T>;

  Cloud(const Tensor& points, const char* name) : tensor_(torch::stable::contiguous(points)) {
    const int64_t count = tensor_.size(0) * tensor_.size(1);
    const T* from = tensor_.template const_data_ptr<T>();
    if constexpr (std::is_same_v<T, A>) {
      data_ = from;
    } else {
      widened_ = std::make_unique<simd::Buffer<A>>(count);
      for (int64_t i = 0; i < count; ++i) (*widened_)[i] = static_cast<A>(from[i]);
      data_ = widened_->data();
    }
    require(usable(data_, count), name, " must be finite (and small enough to be squared)");
  }

  const A* data() const { return data_; }

 private:
  Tensor tensor_;
  std::unique_ptr<simd::Buffer<A>> widened_;
  const A* data_;
};

}  // namespace zoo::nearest_neighbors
