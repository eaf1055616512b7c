// nearest_neighbors on CPU: a tree over the reference, queried in parallel.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>

#include "common/simd.h"
#include "common/tensor.h"
#include "nearest_neighbors/check.h"
#include "nearest_neighbors/cloud.h"
#include "nearest_neighbors/tree.h"

namespace zoo::nearest_neighbors {
namespace {

template <typename T, int D>
void forward(const Tensor& query_points, const Tensor& reference, int64_t k, double max_distance, Tensor& distance,
             Tensor& index) {
  using A = accumulate_t<T>;
  const int64_t n = query_points.size(0), m = reference.size(0);
  const Cloud<T> queries(query_points, "query"), references(reference, "reference");
  const Tree<A, D> tree = build<A, D>(references.data(), m);
  const A reach = static_cast<A>(max_distance);
  T* distances = distance.mutable_data_ptr<T>();
  int64_t* indices = index.mutable_data_ptr<int64_t>();
  if constexpr (std::is_same_v<T, A>) {
    query<A, D>(tree, queries.data(), n, k, reach * reach, distances, indices);
  } else {
    simd::Buffer<A> wide(n * k);
    query<A, D>(tree, queries.data(), n, k, reach * reach, wide.data(), indices);
    for (int64_t i = 0; i < n * k; ++i) distances[i] = static_cast<T>(wide[i]);
  }
}

std::tuple<Tensor, Tensor> nearest_neighbors_cpu(Tensor query_points, Tensor reference, int64_t k,
                                                 double max_distance) {
  check(query_points, reference, k, max_distance);
  const int64_t shape[] = {query_points.size(0), k};
  Tensor distance = torch::stable::new_empty(query_points, {shape, 2});
  Tensor index = torch::stable::new_empty(query_points, {shape, 2}, ScalarType::Long);
  dispatch_floating(query_points.scalar_type(), "query", [&](auto type) {
    using T = typename decltype(type)::type;
    if (reference.size(1) == 2) {
      forward<T, 2>(query_points, reference, k, max_distance, distance, index);
    } else {
      forward<T, 3>(query_points, reference, k, max_distance, distance, index);
    }
  });
  return {distance, index};
}

}  // namespace
}  // namespace zoo::nearest_neighbors

STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m) {
  m.impl("nearest_neighbors", TORCH_BOX(&zoo::nearest_neighbors::nearest_neighbors_cpu));
}
