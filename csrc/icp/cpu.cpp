// icp on CPU: a tree over the target, then the loop of core.cpp.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>

#include "icp/registered.h"

namespace zoo::icp {
namespace {

template <typename T, int D>
void forward(const Tensor& source, const Tensor& target, const std::optional<Tensor>& normals, const Tensor& init_r,
             const Tensor& init_t, const Options& options, Registered& out) {
  namespace nn = nearest_neighbors;
  const nn::Cloud<T> to(target, "target");
  const auto tree = nn::build<accumulate_t<T>, D>(to.data(), target.size(0));
  register_to<T, D>(tree, source, normals, init_r, init_t, options, out);
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
