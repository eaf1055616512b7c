// icp on CPU: a tree over the target, then the loop of core.cpp.
#include <torch/csrc/stable/library.h>
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
namespace {

template <typename T, int D>
void forward(const Tensor& source, const Tensor& target, const std::optional<Tensor>& normals, const Tensor& init_r,
             const Tensor& init_t, const Options& options, Registered& out) {
  using A = accumulate_t<T>;
  namespace nn = nearest_neighbors;
  const nn::Cloud<T> from(source, "source"), to(target, "target");
  std::optional<nn::Cloud<T>> planes;
  if (normals) planes.emplace(*normals, "target_normals");
  const nn::Tree<A, D> tree = nn::build<A, D>(to.data(), target.size(0));

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

Registered icp_cpu(Tensor source, Tensor target, std::optional<Tensor> normals, Tensor init_r, Tensor init_t,
                   double max_distance, int64_t max_iterations, double tolerance, double trim) {
  check(source, target, normals, init_r, init_t, max_distance, max_iterations, tolerance, trim);
  Registered out = make_outputs(source);
  const Options options{max_distance, max_iterations, tolerance, trim};
  dispatch_floating(source.scalar_type(), "source", [&](auto type) {
    using T = typename decltype(type)::type;
    if (source.size(1) == 2) {
      forward<T, 2>(source, target, normals, init_r, init_t, options, out);
    } else {
      forward<T, 3>(source, target, normals, init_r, init_t, options, out);
    }
  });
  return out;
}

}  // namespace
}  // namespace zoo::icp

STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m) { m.impl("icp", TORCH_BOX(&zoo::icp::icp_cpu)); }
