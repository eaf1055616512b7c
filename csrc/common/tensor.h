// What every operator needs around torch::stable::Tensor: refusals in plain words and dispatch on the dtype.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>

namespace zoo {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr double kZeroLength = 1e-8;  // a vector up to this length counts as zero: it is similar to nothing

// Raises RuntimeError in Python with exactly this message (STD_TORCH_CHECK would put file and line in front).
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// The type in which a kernel accumulates: double for double, float for everything narrower.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename Accumulate<T>::type;

template <typename T>
struct Type {
  using type = T;
};

// Calls body(Type<T>{}) for float32, float64, float16 or bfloat16; refuses anything else.
template <typename Body>
void dispatch_floating(ScalarType dtype, const char* argument, const Body& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(Type<float>{});
    case ScalarType::Double:
      return body(Type<double>{});
    case ScalarType::Half:
      return body(Type<Half>{});
    case ScalarType::BFloat16:
      return body(Type<BFloat16>{});
    default:
      require(false, argument, " must be float32, float64, float16 or bfloat16");
  }
}

}  // namespace zoo
