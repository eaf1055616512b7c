// The refusals that CPU and CUDA share.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "common/tensor.h"

namespace zoo::cosine_filter {

// What is measured over the samples, coordinate by coordinate, to decide which coordinates the cosine looks at.
enum class Measure { none, magnitude, deviation, variation };

enum class Noise { none, shared, independent };

inline ScalarType accumulate_dtype(const Tensor& grads) {
  return grads.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Noise check_noise(const Tensor& grads, const std::optional<Tensor>& noise, const std::optional<int64_t>& seed) {
  require(grads.dim() == 2, "per_sample_grads must be [b f], got ", grads.dim(), " dimensions");
  require(!(noise && seed), "noise and seed exclude each other");
  if (noise) {
    require(noise->dim() == 1 && noise->size(0) == grads.size(1), "noise must be [f] with f = ", grads.size(1));
    require(noise->scalar_type() == accumulate_dtype(grads),
            "noise must be float64 for float64 gradients and float32 for every other");
    require(noise->device() == grads.device(), "noise and per_sample_grads must be on the same device");
    return Noise::shared;
  }
  return seed ? Noise::independent : Noise::none;
}

inline Measure check_measure(const Tensor& grads, double clip_norm, const std::string& measure, int64_t unselected) {
  require(clip_norm > 0, "clip_norm must be positive, got ", clip_norm);
  require(unselected >= 0 && unselected <= grads.size(1), "unselected must be in [0, f], got ", unselected);
  if (measure == "magnitude") return Measure::magnitude;
  if (measure == "std") return Measure::deviation;
  if (measure == "cov") return Measure::variation;
  require(measure == "none", "measure must be 'none', 'magnitude', 'std' or 'cov', got '", measure, "'");
  return Measure::none;
}

inline void check_aggregate(const Tensor& grads, const Tensor& weights, const Tensor& coefficients) {
  require(weights.dim() == 1 && weights.size(0) == grads.size(0), "weights must be [b] with b = ", grads.size(0));
  require(weights.scalar_type() == accumulate_dtype(grads),
          "weights must be float64 for float64 gradients and float32 for every other");
  require(coefficients.dim() == 1 && coefficients.size(0) == 2 && coefficients.scalar_type() == ScalarType::Double,
          "coefficients must be [2] and float64");
  require(weights.device() == grads.device() && coefficients.device() == grads.device(),
          "weights, coefficients and per_sample_grads must be on the same device");
}

// The factor that clips a gradient of this norm: rounded to A, so that its product with a float32 gradient is exact in
// double and sums come out the same with and without fused multiply-add.
template <typename A>
#ifdef __CUDACC__
__host__ __device__
#endif
inline A clip_factor(A norm, double clip_norm) {
  const double factor = clip_norm / static_cast<double>(norm);
  return factor < 1 ? static_cast<A>(factor) : A(1);
}

}  // namespace zoo::cosine_filter
