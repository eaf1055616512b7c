// The refusals that CPU and CUDA share.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "common/tensor.h"
#include "nearest_neighbors/check.h"

namespace zoo::icp {

inline void check_options(double max_distance, int64_t max_iterations, double tolerance, double trim) {
  require(max_distance > 0, "max_distance must be positive");
  require(max_iterations >= 0, "max_iterations must be at least 0, not ", max_iterations);
  require(tolerance >= 0, "tolerance must be at least 0");
  require(trim >= 0 && trim < 1, "trim must be from 0 to less than 1");
}

// The initial motion, of as many coordinates as the source and where it is.
inline void check_motion(const Tensor& source, const Tensor& r, const Tensor& t) {
  const int64_t d = source.size(1);
  require(r.dim() == 2 && r.size(0) == d && r.size(1) == d, "R of init must be [", d, " ", d, "]");
  require(t.dim() == 1 && t.size(0) == d, "t of init must be [", d, "]");
  require(r.scalar_type() == ScalarType::Double && t.scalar_type() == ScalarType::Double, "init must be float64");
  require(r.device() == source.device() && t.device() == source.device(), "init and source must be on the same device");
}

inline void check(const Tensor& source, const Tensor& target, const std::optional<Tensor>& normals, const Tensor& r,
                  const Tensor& t, double max_distance, int64_t max_iterations, double tolerance, double trim) {
  nearest_neighbors::check_pair(source, "source", target, "target");
  require(source.size(0) > 0, "source must have at least one point");
  require(target.size(0) > 0, "target must have at least one point");
  if (normals) {
    nearest_neighbors::check_pair(*normals, "target_normals", target, "target");
    require(normals->size(0) == target.size(0), "target_normals must have one normal per target point, got ",
            normals->size(0), " for ", target.size(0));
  }
  check_motion(source, r, t);
  check_options(max_distance, max_iterations, tolerance, trim);
}

// R [d d], t [d], rmse, fitness, iterations, converged.
using Registered = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Registered make_outputs(const Tensor& source) {
  const ScalarType wide = source.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const int64_t shape[] = {source.size(1), source.size(1)};
  const auto empty = [&](size_t rank, ScalarType dtype) {
    return torch::stable::new_empty(source, {shape, rank}, dtype);
  };
  return {empty(2, wide),
          empty(1, wide),
          empty(0, ScalarType::Double),
          empty(0, ScalarType::Double),
          empty(0, ScalarType::Long),
          empty(0, ScalarType::Bool)};
}

}  // namespace zoo::icp
