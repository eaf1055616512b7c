// From tensors through the loop of core.cpp to the outputs of the operator, for a tree that is there.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>

#include "common/tensor.h"
#include "icp/check.h"
#include "icp/core.h"
#include "nearest_neighbors/cloud.h"

namespace zoo::icp {

template <typename T, int D>
void register_to(const nearest_neighbors::Tree<accumulate_t<T>, D>& tree, const Tensor& source,
                 const std::optional<Tensor>& normals, const Tensor& init_r, const Tensor& init_t,
                 const Options& options, Registered& out) {
  using A = accumulate_t<T>;
  const nearest_neighbors::Cloud<T> from(source, "source");
  std::optional<nearest_neighbors::Cloud<T>> planes;
  if (normals) planes.emplace(*normals, "target_normals");

  Result<D> result;
  const Tensor r = torch::stable::contiguous(init_r), t = torch::stable::contiguous(init_t);
  std::copy_n(r.const_data_ptr<double>(), D * D, &result.motion.r[0][0]);
  std::copy_n(t.const_data_ptr<double>(), D, result.motion.t);
  register_clouds<A, D>(tree, from.data(), source.size(0), planes ? planes->data() : nullptr, options, result);

  A* r_out = std::get<0>(out).mutable_data_ptr<A>();
  A* t_out = std::get<1>(out).mutable_data_ptr<A>();
  for (int i = 0; i < D; ++i) {
    for (int j = 0; j < D; ++j) r_out[i * D + j] = static_cast<A>(result.motion.r[i][j]);
    t_out[i] = static_cast<A>(result.motion.t[i]);
  }
  *std::get<2>(out).mutable_data_ptr<double>() = result.rmse;
  *std::get<3>(out).mutable_data_ptr<double>() = result.fitness;
  *std::get<4>(out).mutable_data_ptr<int64_t>() = result.iterations;
  *std::get<5>(out).mutable_data_ptr<bool>() = result.converged;
}

}  // namespace zoo::icp
