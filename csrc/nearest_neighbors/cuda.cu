// nearest_neighbors on CUDA: build the tree, sort the queries along its curve, one warp per query.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <tuple>
#include <type_traits>

#include "common/cuda.h"
#include "common/tensor.h"
#include "nearest_neighbors/check.h"
#include "nearest_neighbors/tree.cuh"

namespace zoo::nearest_neighbors {
namespace {

constexpr int kWarps = device::kThreads / 32;

// squares [n k] is workspace, and may be the output itself.
template <typename T, typename A, int D>
__global__ void __launch_bounds__(device::kThreads)
    query(const device::Tree<A, D> tree, const A* __restrict__ points, const int32_t* __restrict__ order, int64_t n,
          int64_t k, A limit, A* squares, T* distances, int64_t* indices) {
  __shared__ A frames[kWarps][device::kDepth][device::kFan];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (i >= n) return;  // the whole warp
  const int64_t row = order[i];
  A q[D];
  for (int d = 0; d < D; ++d) q[d] = points[row * D + d];
  if (k == 1) {
    device::Nearest<A, false> best(limit);
    device::search(tree, q, best, frames[warp]);
    if (lane == 0) {
      const bool found = best.slot >= 0;
      distances[row] = static_cast<T>(found ? static_cast<A>(sqrt(best.distance)) : static_cast<A>(INFINITY));
      indices[row] = found ? best.index : -1;
    }
    return;
  }
  device::NearestK<A> best(squares + row * k, indices + row * k, k, limit);
  device::search(tree, q, best, frames[warp]);
  for (int64_t j = lane; j < k; j += 32) {
    const bool found = j < best.found;
    const A distance = found ? static_cast<A>(sqrt(squares[row * k + j])) : static_cast<A>(INFINITY);
    distances[row * k + j] = static_cast<T>(distance);
    if (!found) indices[row * k + j] = -1;
  }
}

template <typename T, int D>
void forward(const Tensor& query_points, const Tensor& reference, int64_t k, double max_distance, Tensor& distance,
             Tensor& index, cudaStream_t stream) {
  using A = accumulate_t<T>;
  const int64_t n = query_points.size(0), m = reference.size(0);
  if (n == 0) return;
  const Tensor targets = device::to_cloud<T, D>(reference, stream);
  const device::Storage<A, D> storage(targets, m, stream);
  const Tensor queries = device::to_cloud<T, D>(query_points, stream);
  Tensor box = queries, order = queries;
  device::sort_cloud<A, D>(queries, n, box, order, stream);

  const A reach = static_cast<A>(max_distance);
  const A limit = reach * reach < device::kHuge<A> ? reach * reach : device::kHuge<A>;
  Tensor squares = distance;
  if constexpr (!std::is_same_v<T, A>) squares = device::scratch(queries, k > 1 ? n * k : 1, device::kType<A>);
  query<T, A, D><<<cuda::grid(cuda::ceil_div(n, kWarps), "query"), device::kThreads, 0, stream>>>(
      storage.tree, queries.const_data_ptr<A>(), order.const_data_ptr<int32_t>(), n, k, limit,
      squares.mutable_data_ptr<A>(), distance.mutable_data_ptr<T>(), index.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> nearest_neighbors_cuda(Tensor query_points, Tensor reference, int64_t k,
                                                  double max_distance) {
  check(query_points, reference, k, max_distance);
  const torch::stable::accelerator::DeviceGuard guard(query_points.get_device_index());
  const cudaStream_t stream = cuda::stream(query_points);
  const int64_t shape[] = {query_points.size(0), k};
  Tensor distance = torch::stable::new_empty(query_points, {shape, 2});
  Tensor index = torch::stable::new_empty(query_points, {shape, 2}, ScalarType::Long);
  dispatch_floating(query_points.scalar_type(), "query", [&](auto type) {
    using T = typename decltype(type)::type;
    if (reference.size(1) == 2) {
      forward<T, 2>(query_points, reference, k, max_distance, distance, index, stream);
    } else {
      forward<T, 3>(query_points, reference, k, max_distance, distance, index, stream);
    }
  });
  return {distance, index};
}

}  // namespace
}  // namespace zoo::nearest_neighbors

STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m) {
  m.impl("nearest_neighbors", TORCH_BOX(&zoo::nearest_neighbors::nearest_neighbors_cuda));
}
